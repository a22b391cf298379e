package processmachine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// releasePatience is how long each thing that ends with guest-tools may take to do so: that their last words are
// passed on, and that the server ends, which waits 5 s for its own handlers. What takes longer is told.
const releasePatience = 6 * time.Second

// guest is a ports.GuestWithWords. Two goroutines belong to it from begin on, live and serve; they end with
// Stop, which waits for them.
type guest struct {
	config  Config
	home    home
	process ports.Process
	tools   string // the program
	words   lastWords
	called  atomic.Bool // whether any request came

	asked    context.Context // ends with the first Stop
	ask      context.CancelFunc
	hurried  context.Context // ends when some Stop's ctx does
	hurry    context.CancelFunc
	serving  context.Context // ends once the guest is gone
	silence  context.CancelFunc
	served   chan struct{} // closed when the server has ended
	done     chan struct{} // closed when the guest has
	released chan struct{} // closed when nothing is left

	mu  sync.Mutex
	err error // guarded by mu: why it ended by itself

	stopErr error // set before released is closed
}

func newGuest(config Config, home home, process ports.Process, tools string) *guest {
	g := &guest{
		config: config, home: home, process: process, tools: tools,
		served: make(chan struct{}), done: make(chan struct{}), released: make(chan struct{}),
	}
	g.asked, g.ask = context.WithCancel(context.Background())
	g.hurried, g.hurry = context.WithCancel(context.Background())
	g.serving, g.silence = context.WithCancel(context.Background())
	return g
}

func (g *guest) begin(listener net.Listener, handler ports.Handler) {
	go g.serve(listener, handler)
	go g.live()
}

// serve serves the guest. A guest whose host can't be reached is of no use: it ends.
func (g *guest) serve(listener net.Listener, handler ports.Handler) {
	defer close(g.served)
	err := g.config.Serve(g.serving, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.called.Store(true)
		handler.ServeHTTP(w, r)
	}))
	_ = listener.Close()
	if g.serving.Err() != nil {
		return
	}
	if err == nil {
		err = errors.New("it has ended")
	}
	g.fail(fmt.Errorf("the server that the guest talks to failed: %w", err))
	_, _ = g.process.Kill(ended(), 0)
}

// fail tells why the guest ends. The first reason counts.
func (g *guest) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

// live follows the guest through its life, and clears away after it.
func (g *guest) live() {
	defer close(g.released)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		g.listenTo(g.process.Output())
	}()
	report, waitErr := g.process.Wait(g.asked)
	grace := time.Duration(0)
	if waitErr != nil {
		grace = g.askToEnd()
	}
	// When guest-tools are gone, so is the guest: a machine's processes end with its first one.
	killErr := g.kill(grace)
	if waitErr == nil {
		within(releasePatience, copied) // its last words
		g.fail(g.death(report))
	}
	close(g.done)
	<-g.asked.Done()
	g.stopErr = errors.Join(killErr, g.release(copied), g.home.remove())
	if g.stopErr != nil {
		g.config.Logger.Warn("guest not fully removed", slog.String("folder", string(g.home)), slog.Any("error", g.stopErr))
	}
}

// release gives back what a guest held that has ended.
func (g *guest) release(copied <-chan struct{}) error {
	g.silence()
	var err error
	if !within(releasePatience, g.served) {
		err = errors.New("the server that the guest talked to goes on")
	}
	err = errors.Join(err, g.process.Close())
	if !within(releasePatience, copied) {
		err = errors.Join(err, errors.New("whoever takes what guest-tools say goes on taking it"))
	}
	return err
}

// within tells whether something is done within a time.
func within(patience time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// death is why a guest is gone whose guest-tools have ended. Those that never called may be none.
func (g *guest) death(report domain.Report) error {
	if g.called.Load() {
		return fmt.Errorf("guest-tools ended (%s); %s", report, g.LastWords())
	}
	return fmt.Errorf("guest-tools ended before they called their host (%s); is %s the program guest-tools? %s",
		report, domain.Quote(g.tools), g.LastWords())
}

// LastWords implements ports.GuestWithWords.
func (g *guest) LastWords() string {
	if said := g.words.String(); said != "" {
		return "their last words: " + strconv.Quote(said)
	}
	return "they said nothing"
}

// askToEnd gives guest-tools the chance to end their task, and tells how much of the grace is left for
// what they leave.
func (g *guest) askToEnd() time.Duration {
	over := time.Now().Add(g.config.Grace)
	ctx, cancel := context.WithDeadline(g.hurried, over)
	defer cancel()
	if ctx.Err() != nil {
		return 0
	}
	_ = g.process.Terminate() // if that fails, the kill will tell
	if _, err := g.process.Wait(ctx); err != nil {
		return 0
	}
	return max(time.Until(over), 0)
}

func (g *guest) kill(grace time.Duration) error {
	survivors, err := g.process.Kill(g.hurried, grace)
	for _, s := range survivors {
		err = errors.Join(err, fmt.Errorf("process %d (%s) could not be killed", s.PID, domain.Quote(s.Command)))
	}
	return err
}

// listenTo passes on what guest-tools say. Their output must be read even where nobody wants it, or they
// would come to a stop.
func (g *guest) listenTo(output io.Reader) {
	buffer := make([]byte, 4096)
	for {
		n, err := output.Read(buffer)
		if n > 0 {
			g.words.add(buffer[:n])
			_, _ = g.config.Output.Write(buffer[:n])
		}
		if err != nil {
			return
		}
	}
}

// Done implements ports.Guest.
func (g *guest) Done() <-chan struct{} { return g.done }

// Err implements ports.Guest.
func (g *guest) Err() error {
	select {
	case <-g.done:
	default:
		return nil
	}
	if g.asked.Err() != nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Stop implements ports.Guest.
func (g *guest) Stop(ctx context.Context) error {
	defer context.AfterFunc(ctx, g.hurry)()
	if ctx.Err() != nil {
		g.hurry() // AfterFunc may take a moment, in which the guest would be asked
	}
	g.ask()
	<-g.released
	g.hurry() // frees the contexts
	return g.stopErr
}

// ended is a context that has ended, with which a kill asks nobody.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// lastWords keeps the end of what was said.
type lastWords struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

// maxWords is how much of it.
const maxWords = 4 << 10

func (w *lastWords) add(more []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, more...)
	if len(w.text) > maxWords {
		w.text = append(w.text[:0], w.text[len(w.text)-maxWords:]...)
	}
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(string(w.text))
}
