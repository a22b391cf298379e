package metaservicetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Script plays one guest. ctx ends when the guest is stopped. An error is what the machine died of. After
// a nil the guest stays up until it is stopped: ServeActions goes on, and everything else is silence.
type Script func(ctx context.Context, guest *Guest) error

// Machine is a ports.Machine whose guests are goroutines of this process, which play a script.
type Machine struct{ script Script }

// NewMachine makes a machine whose guests play script, each on a goroutine of its own.
func NewMachine(script Script) *Machine { return &Machine{script: script} }

var (
	_ ports.MachineWithOptions = (*Machine)(nil)
	_ ports.MachineWithToken   = (*Machine)(nil)
)

// HandsTokenOver implements ports.MachineWithToken: guests show their token from their Hello on.
func (m *Machine) HandsTokenOver() {}

// Boot implements ports.Machine.
func (m *Machine) Boot(ctx context.Context, options ports.BootOptions) (ports.Guest, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := m.CheckOptions(options.Options); err != nil {
		return nil, err
	}
	var token domain.Token
	if options.Token != "" {
		given, err := domain.ParseToken(options.Token)
		if err != nil {
			return nil, err
		}
		token = given
	}
	g := &Guest{
		given:   token,
		handler: options.Handler,
		options: options.Options,
		done:    make(chan struct{}),

		hasShell: make(chan struct{}),
		hasToken: make(chan struct{}),
	}
	g.life, g.end = context.WithCancelCause(context.Background())
	g.running.Add(1)
	go g.play(m.script) // ends with the script, which Stop waits for
	return g, nil
}

// CheckOptions implements ports.MachineWithOptions: any JSON object will do, since a script may play
// whatever machine its test is about.
func (m *Machine) CheckOptions(options []byte) error {
	if len(options) == 0 {
		return nil
	}
	var object map[string]any
	if err := json.Unmarshal(options, &object); err != nil {
		return &ports.MalformedPayloadError{Mistakes: []ports.PayloadMistake{{Found: "something else", Right: "a JSON object"}}}
	}
	return nil
}

// OptionsSchema implements ports.MachineWithOptions.
func (m *Machine) OptionsSchema() []byte { return []byte(`{"type":"object"}`) }

// Guest is one guest, as its script sees it. Its methods speak the protocol with the host, and block no
// longer than the guest lives. Safe for concurrent use. To the machine's user it is a ports.Guest.
type Guest struct {
	given   domain.Token // by the machine; none where the host demands none
	handler ports.Handler
	options []byte
	life    context.Context // ends with the guest
	end     context.CancelCauseFunc
	done    chan struct{}
	running sync.WaitGroup // the script, what serves actions, and the requests

	hasShell chan struct{} // closed when shell is set
	hasToken chan struct{} // closed when token is set

	mu       sync.Mutex // guards what follows
	over     bool       // no request begins any more
	stopped  bool
	err      error
	greeted  bool            // a hello was sent
	bySelf   bool            // it was none of the script's
	serves   bool            // ServeActions answers, and so knows all kinds
	features domain.Features // what it and the host know
	token    domain.Token    // that requests show
	shell    ShellCommand
}

var (
	errStopped = errors.New("the guest was stopped")
	errFled    = errors.New("the script left its goroutine without returning: only the test's own may call t.FailNow")
)

func (g *Guest) play(script Script) {
	defer g.running.Done()
	err := errFled
	defer func() {
		if err != nil {
			g.finish(err, false)
		}
	}()
	err = script(g.life, g)
}

// finish ends the guest's life; the first reason counts.
func (g *Guest) finish(err error, stopped bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if stopped {
		g.stopped = true
	}
	if g.over {
		return
	}
	g.over = true
	g.err = err
	g.end(err)
	close(g.done)
}

// begin notes that something of the guest runs; the error is why it may not.
func (g *Guest) begin() (end func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return nil, g.err
	}
	g.running.Add(1)
	return g.running.Done, nil
}

// Done implements ports.Guest.
func (g *Guest) Done() <-chan struct{} { return g.done }

// Err implements ports.Guest.
func (g *Guest) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil
	}
	return g.err
}

// stopGrace is how long Stop waits for a script or a handler that doesn't heed its context, once it is
// in a hurry. Goroutines can't be killed.
const stopGrace = 5 * time.Second

// Stop implements ports.Guest.
func (g *Guest) Stop(ctx context.Context) error {
	g.finish(errStopped, true)
	joined := make(chan struct{})
	go func() { // ends with the last of the guest
		g.running.Wait()
		close(joined)
	}()
	select {
	case <-joined:
		return nil
	case <-ctx.Done():
	}
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-joined:
		return nil
	case <-grace.C:
		return fmt.Errorf("the guest's script, or a handler that it called, goes on though its context ended %s ago", stopGrace)
	}
}

var _ ports.Guest = (*Guest)(nil)
