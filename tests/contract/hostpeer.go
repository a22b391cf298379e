package contract

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/hexworker/metaservice/domain"
)

// Peer is the host behind a ports.Host under test. It keeps what the guest said, and answers as it was
// told to; whoever connects a ports.Host to one passes each call on to the method that is named so.
// Set the exported fields before the first call.
type Peer struct {
	Features domain.Features
	Task     domain.Execute
	Actions  chan domain.Action // what polls take
	Refuse   *domain.Error      // to everything
	LogFails *domain.Error      // to a log, at once, its body unread
	Token    string             // handed out once, and demanded then; empty is none

	mu      sync.Mutex
	changed chan struct{}
	taken   bool // the token
	hellos  []domain.Hello
	results []domain.Result
	replies []Reply
	log     bytes.Buffer
	logEnds []error
}

// Reply is what a guest answered to an action.
type Reply struct {
	ID       domain.ActionID
	NotFound bool     // file-not-found, or a folder that can't be walked
	Content  []byte   // a get-artifact's
	Files    []string // a list-folder's
	Archive  []string // a get-folder's: NAME=CONTENT, or NAME!FAILURE
	Broken   error    // why the body didn't come to its end
}

// Archived is one entry of Reply.Archive.
func Archived(name, content string, failure domain.FileFailure) string {
	if failure != "" {
		return name + "!" + string(failure)
	}
	return name + "=" + content
}

// NewPeer makes a host that has nothing to say.
func NewPeer() *Peer {
	return &Peer{Actions: make(chan domain.Action, 16), changed: make(chan struct{})}
}

// note changes what the peer knows, and wakes whoever waits for it.
func (p *Peer) note(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Peer) refusal() error {
	if p.Refuse != nil {
		return p.Refuse
	}
	return nil
}

// HandToken hands the token out, once.
func (p *Peer) HandToken() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.Refuse != nil:
		return "", p.Refuse
	case p.Token == "":
		return "", &domain.Error{Code: domain.CodeNoSuchEndPoint, Message: "no token is handed out"}
	case p.taken:
		return "", &domain.Error{Code: domain.CodeResourceConflict, Message: "somebody has the token"}
	}
	p.taken = true
	return p.Token, nil
}

// Admit refuses a request that doesn't show the token that somebody has.
func (p *Peer) Admit(shown string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken && shown != p.Token {
		return &domain.Error{Code: domain.CodeUnauthorized, Message: "the token is missing"}
	}
	return nil
}

// Hello takes a hello.
func (p *Peer) Hello(hello domain.Hello) (domain.Features, error) {
	p.note(func() { p.hellos = append(p.hellos, hello) })
	return p.Features, p.refusal()
}

// Execute tells the task.
func (p *Peer) Execute() (domain.Execute, error) { return p.Task, p.refusal() }

// Poll waits for an action.
func (p *Peer) Poll(ctx context.Context) (domain.Action, error) {
	if err := p.refusal(); err != nil {
		return domain.Action{}, err
	}
	select {
	case action := <-p.Actions:
		return action, nil
	case <-ctx.Done():
		return domain.Action{}, context.Cause(ctx)
	}
}

// Resolve takes a result.
func (p *Peer) Resolve(result domain.Result) error {
	p.note(func() { p.results = append(p.results, result) })
	return p.refusal()
}

// Log takes a log's body.
func (p *Peer) Log(body io.Reader) error {
	if p.LogFails != nil {
		return p.LogFails
	}
	if err := p.refusal(); err != nil {
		return err
	}
	block := make([]byte, 64<<10)
	for {
		n, err := body.Read(block)
		p.note(func() {
			p.log.Write(block[:n])
			if err != nil {
				p.logEnds = append(p.logEnds, err)
			}
		})
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Reply takes a reply. A body that broke off is noted, but is none of the peer's business otherwise.
func (p *Peer) Reply(reply Reply) error {
	if err := p.refusal(); err != nil {
		return err
	}
	p.note(func() { p.replies = append(p.replies, reply) })
	return nil
}

// await waits until what the peer knows fulfils the condition, and tells whether it came to that.
func (p *Peer) await(ctx context.Context, condition func() bool) bool {
	for {
		p.mu.Lock()
		ok, changed := condition(), p.changed
		p.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// awaitReply waits for the reply with this id.
func (p *Peer) awaitReply(ctx context.Context, id domain.ActionID) (Reply, error) {
	var reply Reply
	found := p.await(ctx, func() bool {
		i := slices.IndexFunc(p.replies, func(r Reply) bool { return r.ID == id })
		if i >= 0 {
			reply = p.replies[i]
		}
		return i >= 0
	})
	if !found {
		return Reply{}, errors.New("no reply came")
	}
	return reply, nil
}

// Seen is all that a guest told its host so far.
type Seen struct {
	Hellos  []domain.Hello
	Results []domain.Result
	Replies []Reply
	Log     string  // of all bodies, in the order in which it came
	LogEnds []error // of each body that has ended; io.EOF is a good end
}

// Seen is a copy of what the guest told.
func (p *Peer) Seen() Seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Seen{
		Hellos:  slices.Clone(p.hellos),
		Results: slices.Clone(p.results),
		Replies: slices.Clone(p.replies),
		Log:     p.log.String(),
		LogEnds: slices.Clone(p.logEnds),
	}
}
