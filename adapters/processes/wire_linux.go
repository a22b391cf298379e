package processes

import (
	"time"

	"github.com/hexworker/metaservice/ports"
)

// What a shim and the one who started it say to each other, as lines of JSON on a socket. Bytes that go
// to the system are []byte: paths, arguments and variables need not be UTF-8, which JSON strings must.

// shimStart is the first line, and the only one that a shim gets before it has answered.
type shimStart struct {
	Path       []byte
	Args, Env  [][]byte
	Dir        []byte
	Credential *credential
	Terminal   bool // its files are a terminal, which is to be its controlling one
}

// shimRequest is each later line to a shim.
type shimRequest struct {
	Op    shimOp
	ID    int // of a kill
	Grace time.Duration
}

type shimOp string

const (
	opTerminate shimOp = "terminate" // SIGTERM to the command alone
	opKill      shimOp = "kill"      // kill the tree, and answer
	opHurry     shimOp = "hurry"     // end the waiting of the kill with this ID
)

// shimEvent is a line from a shim.
type shimEvent struct {
	Event shimEventName

	PID   int    // started
	Start uint64 // started: as in /proc

	Errno int    // failed: what the system said, if it did
	Error string // failed

	Status uint32 // exited: what wait says
	Killed bool   // exited

	ID        int              // killed
	Survivors []ports.Survivor // killed
}

type shimEventName string

const (
	eventStarted shimEventName = "started"
	eventFailed  shimEventName = "failed"
	eventExited  shimEventName = "exited"
	eventKilled  shimEventName = "killed"
)

// The files that a shim is started with: its own, and the standard ones of its command.
const (
	shimControl = 3
	shimInput   = 4
	shimOutput  = 5
	shimErrors  = 6
)

func toBytes(texts []string) [][]byte {
	all := make([][]byte, len(texts))
	for i, text := range texts {
		all[i] = []byte(text)
	}
	return all
}

func toStrings(all [][]byte) []string {
	texts := make([]string, len(all))
	for i, text := range all {
		texts[i] = string(text)
	}
	return texts
}
