package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hexworker/metaservice/adapters/vmnet"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// networkPatience is how long QEMU may go on once its end of the card is gone: they end together.
	networkPatience = 10 * time.Second
	// releasePatience is how long each thing that ends with QEMU may take to do so: that its last words are
	// heard, and that the server ends. What takes longer is told.
	releasePatience = 2 * time.Second
)

// guest is a ports.GuestWithWords. Its goroutines start with begin and end with Stop, which waits for them.
type guest struct {
	config  Config
	process *process
	network *vmnet.Network
	log     io.WriteCloser // of the console; nil is none
	console words
	stderr  words

	asked    context.Context // ends with the first Stop
	ask      context.CancelFunc
	hurried  context.Context // ends when some Stop's ctx does
	hurry    context.CancelFunc
	serving  context.Context // ends once the guest is gone
	silence  context.CancelFunc
	heard    chan struct{} // closed when what the console and QEMU say has been heard
	served   chan struct{} // closed when the server has ended
	done     chan struct{} // closed when the guest has
	released chan struct{} // closed when nothing is left

	mu  sync.Mutex
	err error // guarded by mu: why it ended by itself

	stopErr error // set before released is closed
}

func newGuest(config Config) *guest {
	g := &guest{
		config: config, heard: make(chan struct{}),
		served: make(chan struct{}), done: make(chan struct{}), released: make(chan struct{}),
	}
	g.asked, g.ask = context.WithCancel(context.Background())
	g.hurried, g.hurry = context.WithCancel(context.Background())
	g.serving, g.silence = context.WithCancel(context.Background())
	return g
}

// start starts QEMU, and the network at the other end of its card.
func (g *guest) start(program string, args []string, nat bool, files inherited) error {
	process, card, err := startQEMU(program, args, g.config.Folder, files)
	if err != nil {
		return err
	}
	config := vmnet.Config{Logger: g.config.Logger}
	if nat {
		config.NAT = &g.config.World
	}
	network, err := vmnet.New(card, config)
	if err != nil {
		err = errors.Join(err, process.kill())
		process.console.Close()
		process.stderr.Close()
		return err
	}
	g.process, g.network = process, network
	return nil
}

func (g *guest) begin(handler ports.Handler) {
	go g.hear()
	go g.serve(handler)
	go g.live()
}

// hear hears what the console and QEMU say, to its end.
func (g *guest) hear() {
	defer close(g.heard)
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() { listen(g.process.stderr, &g.stderr, nil, 0) })
	if g.log == nil {
		listen(g.process.console, &g.console, nil, 0)
		return
	}
	listen(g.process.console, &g.console, g.log, g.config.ConsoleBytes)
}

// serve serves the guest. A guest whose host can't be reached is of no use: it ends.
func (g *guest) serve(handler ports.Handler) {
	defer close(g.served)
	listener := g.network.Listener()
	err := g.config.Serve(g.serving, listener, handler)
	_ = listener.Close()
	if g.serving.Err() != nil {
		return
	}
	select {
	case <-g.network.Done(): // which is why, and tells more
		return
	default:
	}
	if err == nil {
		err = errors.New("it has ended")
	}
	g.fail(fmt.Errorf("the server that the guest talks to failed: %w", err))
	_ = g.process.kill()
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
	byItself, cutOff := false, false
	select {
	case <-g.process.exited:
		byItself = true
	case <-g.network.Done():
		byItself = g.awaitExit(networkPatience)
		cutOff = !byItself
	case <-g.asked.Done():
		g.askToEnd()
	}
	err := g.process.kill()
	if err == nil && !within(releasePatience, g.heard) { // its last words
		err = g.remains()
	}
	switch {
	case byItself:
		g.fail(g.death())
	case cutOff:
		g.fail(fmt.Errorf("the guest's network has ended: %w; %s", orGone(g.network.Err()), g.says()))
	}
	close(g.done)
	<-g.asked.Done()
	g.stopErr = errors.Join(err, g.release())
	if g.stopErr != nil {
		g.config.Logger.Warn("guest not fully removed", slog.Any("error", g.stopErr))
	}
}

// release gives back what a guest held that has ended.
func (g *guest) release() error {
	g.silence()
	served := within(releasePatience, g.served)
	err := errors.Join(g.network.Close(), g.process.console.Close(), g.process.stderr.Close())
	if !served && !within(releasePatience, g.served) { // not without the network, either
		err = errors.Join(err, errors.New("the server that the guest talked to goes on"))
	}
	heard := within(releasePatience, g.heard)
	if g.log != nil {
		err = errors.Join(err, g.log.Close())
	}
	if !heard && !within(releasePatience, g.heard) {
		err = errors.Join(err, errors.New("whoever takes the guest's console goes on taking it"))
	}
	return err
}

// remains tells why the words of a QEMU that has ended have no end.
func (g *guest) remains() error {
	left := append(holders(g.process.console), holders(g.process.stderr)...)
	slices.Sort(left)
	left = slices.Compact(left)
	if len(left) == 0 { // a log that blocks, which release tells of
		return nil
	}
	return fmt.Errorf("what the program %s has started lives on, in a process group of its own: it is process %s",
		domain.Quote(g.process.cmd.Path), strings.Trim(fmt.Sprint(left), "[]"))
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

func orGone(err error) error {
	if err == nil {
		return errors.New("QEMU has closed it")
	}
	return err
}

// askToEnd has QEMU put its things in order. Whatever is in the guest then is meant to be lost: nobody waits
// for it.
func (g *guest) askToEnd() {
	if g.hurried.Err() != nil {
		return
	}
	_ = g.process.signal(syscall.SIGTERM) // if that fails, the kill will tell
	grace := time.NewTimer(g.config.Grace)
	defer grace.Stop()
	select {
	case <-g.process.exited:
	case <-g.hurried.Done():
	case <-grace.C:
	}
}

// awaitExit tells whether QEMU ends within a time in which nobody stops it.
func (g *guest) awaitExit(within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-g.process.exited:
		return true
	case <-timer.C:
	case <-g.asked.Done():
	}
	return false
}

// death is why a guest is gone that nobody stopped.
func (g *guest) death() error {
	return fmt.Errorf("%s (QEMU: %s); %s", cause(g.console.String()), g.process.state(), g.says())
}

// says are the last words of QEMU, and of the guest's console, each of which is maxWords at most.
func (g *guest) says() string {
	says := "its console stayed silent"
	if console := g.console.String(); console != "" {
		says = "the last lines of its console: " + strconv.Quote(console)
	}
	if said := g.stderr.String(); said != "" {
		says = "QEMU says " + strconv.Quote(said) + "; " + says
	}
	return says
}

// LastWords implements ports.GuestWithWords.
func (g *guest) LastWords() string { return g.says() }

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
