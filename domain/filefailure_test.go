package domain_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

// What can't be opened is what a get-artifact would have been told of it; the rest is the guest's failure.
func TestFileFailures(t *testing.T) {
	for failure, found := range map[domain.FileFailure]bool{
		domain.FailureNotFound: false, domain.FailureDenied: false, domain.FailureNotRegular: false,
		domain.FailureIO: true, domain.FailureApart: true, "": true, "a new word\x1b[31m": true,
	} {
		err := failure.Err()
		if errors.Is(err, domain.ErrResourceNotFound) == found || errors.Is(err, domain.ErrGuestError) != found ||
			errors.Is(err, domain.ErrNonFatalInternalError) != found {
			t.Errorf("%q is %v", failure, err)
		}
		if failure != domain.FailureNotFound && !strings.HasSuffix(strings.Trim(err.Error(), `"`), strings.ReplaceAll(string(failure), "\x1b", `\x1b`)) {
			t.Errorf("%q is told as %q", failure, err)
		}
	}
}
