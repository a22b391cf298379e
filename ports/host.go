package ports

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/hexworker/metaservice/domain"
)

// Handler is what a machine serves to its guest. The alias lets the app speak of it without HTTP.
type Handler = http.Handler

// Machine boots guests.
type Machine interface {
	// Boot starts one guest and serves the handler to it, and to nobody else, at the metadata address,
	// until Stop. It returns when the guest is on its way, not when it has called. ctx bounds the
	// start alone. An error leaves nothing behind, and says what to do about it.
	Boot(ctx context.Context, options BootOptions) (Guest, error)
}

// BootOptions is what a guest is booted with.
type BootOptions struct {
	Handler Handler
	// Options is what a task asks of its machine, as JSON in the machine's own words; empty is nothing. A
	// *MalformedPayloadError, whose paths begin at the options, tells what of it can't be.
	Options []byte
	// Token is what the guest's tools prove themselves with (domain.FeatureToken), for a MachineWithToken to
	// hand over; empty is none. It is a secret: no argument of a program, no log and no error may show it.
	Token string
}

// Format shows no more than what is there: the options of a task may hold secrets, and the token is one.
func (o BootOptions) Format(out fmt.State, _ rune) {
	fmt.Fprintf(out, "{options: %d bytes, token: %t}", len(o.Options), o.Token != "")
}

// MachineWithToken is a Machine that can hand a token over where nobody in the guest but its root, or
// whoever its tools run as, can read it. Guests whose tools know of none are none the worse for it.
type MachineWithToken interface {
	Machine
	// HandsTokenOver marks it; there is nothing to call.
	HandsTokenOver()
}

// MachineWithOptions is a Machine that a task may ask for something.
type MachineWithOptions interface {
	Machine
	// CheckOptions tells what of them can't be, before anything is started: a *MalformedPayloadError as
	// in BootOptions.
	CheckOptions(options []byte) error
	// OptionsSchema is their JSON Schema.
	OptionsSchema() []byte
}

// NoMachineOptions is Boot's check for a machine that has no options. What it was given isn't told: a task's
// author may have taken it for the place of a secret.
func NoMachineOptions(options []byte) error {
	switch string(options) {
	case "", "{}", "null":
		return nil
	}
	return &MalformedPayloadError{Mistakes: []PayloadMistake{{Found: "there", Right: "left out: this machine has no options"}}}
}

// Guest is a booted machine.
type Guest interface {
	// Done is closed when the guest has ended, by itself or by Stop.
	Done() <-chan struct{}
	// Err tells why a guest ended that nobody stopped, with its last words; nil before Done, and
	// after Stop.
	Err() error
	// Stop ends the guest and all that runs in it, and releases what it held: it returns when nothing
	// is left. It asks first and then kills; once ctx ends it only kills. Any number of times, from
	// any goroutine. The error tells what could not be removed.
	Stop(ctx context.Context) error
}

// GuestWithWords is a Guest that can tell what it has said.
type GuestWithWords interface {
	Guest
	// LastWords are those of its console, or of its tools, up to now, in the form of a clause of an error; empty
	// is none. They are the guest's own: good for a message and nothing else.
	LastWords() string
}

// Storage keeps what is uploaded.
type Storage interface {
	// Create begins an upload of so many bytes as were announced, -1 where nothing was; what comes may
	// still be less or more. An error says what to do about it.
	Create(size int64) (Upload, error)
}

// StorageWithSpace is a Storage that can tell how much room there is.
type StorageWithSpace interface {
	Storage
	// Space is how many bytes of the disk are free to whoever stores here, and how many it has. An error means
	// that it can't be told.
	Space() (free, disk int64, err error)
}

// Upload is one file being received, by one goroutine at a time. Close before Commit drops its bytes;
// after Commit it does nothing. Whoever created it closes it. One that is an io.ReaderFrom takes what it can off a
// socket without a copy in this process; an error of that may be of either side.
type Upload interface {
	io.WriteCloser
	// Commit makes the file whole, and returns it, positioned at its start; whoever gets it closes
	// it. It takes no more than one call. After an error nothing is left.
	Commit() (io.ReadSeekCloser, error)
}

// Folder is where files with relative names are kept, such as a folder's content that came from a
// guest. No name leads out of it, whatever links it holds already.
type Folder interface {
	// File is the storage for one file of it: slashes part its name, and folders are made as needed.
	// The file appears under its name when its upload is committed, replacing what was there, and not
	// before. A name that leads out of the folder makes Create fail.
	File(name string) Storage
}

// LogSink takes a task's log, a whole chunk at a time, in the order in which chunks came. It may
// block, which holds the guest's output back. Its first error ends the log.
type LogSink = io.Writer

// IDs makes ids that nobody can guess.
type IDs interface {
	NewID() domain.ActionID
}
