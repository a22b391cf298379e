package domain

import "fmt"

// FileFailure is why a guest can't send one file of a folder, in the protocol's words. What a guest says
// may be any text.
type FileFailure string

// The words that this version knows.
const (
	FailureNotFound   FileFailure = "not-found"
	FailureDenied     FileFailure = "permission-denied"
	FailureNotRegular FileFailure = "not-regular" // it is none any more
	FailureIO         FileFailure = "io-error"
	// FailureApart is a file that is to be asked for by itself: a large one, or one whose size nobody knows
	// before it has been read.
	FailureApart FileFailure = "apart"
)

// Err is the failure for whoever asked for the file. What can't be opened is ErrResourceNotFound, as it is
// where a get-artifact asks for it; anything else is ErrGuestError below ErrNonFatalInternalError.
func (f FileFailure) Err() error {
	switch f {
	case FailureNotFound:
		return ErrResourceNotFound
	case FailureDenied, FailureNotRegular:
		return fmt.Errorf("%w: %s", ErrResourceNotFound, string(f))
	}
	return fmt.Errorf("%w: %w: %s", ErrNonFatalInternalError, ErrGuestError, Quote(string(f)))
}
