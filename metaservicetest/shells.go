package metaservicetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// Shell is what a ShellCommand is given: what the host asked for, and the shell's streams.
type Shell struct {
	domain.ShellSpec
	Stdin          io.Reader
	Stdout, Stderr io.Writer                 // with a terminal, only Stdout
	Sizes          <-chan ports.TerminalSize // gives each new size of the terminal
	Guest          *Guest
}

// ShellCommand plays a shell's process, and returns its exit code. ctx ends with domain.ErrShellAborted when
// the host aborts it, with ErrShellTimedOut when its time is over, and when the guest is stopped.
type ShellCommand func(ctx context.Context, shell Shell) (exitCode int)

// ErrShellTimedOut is the cause with which a ShellCommand's context ends when ShellSpec.Timeout is over.
var ErrShellTimedOut = errors.New("the shell's time is over")

// ServeShells has the guest answer what the host asks for in shells: each is played by command, on a
// goroutine of its own. ServeActions must be answering, as it does in Run. Shells that are asked for before
// wait for this; in a guest that never calls it, the host waits in vain. The first call counts.
func (g *Guest) ServeShells(command ShellCommand) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shell == nil {
		g.shell = command
		close(g.hasShell)
	}
}

// playShell answers an exec-shell, once there is a command for it.
func (g *Guest) playShell(action domain.Action) error {
	select {
	case <-g.hasShell:
	case <-g.life.Done():
		return context.Cause(g.life)
	}
	host, err := g.OpenShell(action.ID())
	if err != nil {
		return err
	}
	defer host.Close()
	ctx, end := context.WithCancelCause(g.life)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end(nil)
	watch.Go(func() {
		select {
		case <-host.Done():
			end(host.Err())
		case <-ctx.Done():
		}
	})
	spec := action.Shell()
	if spec.Timeout > 0 {
		defer time.AfterFunc(spec.Timeout, func() { end(ErrShellTimedOut) }).Stop()
	}
	shell := Shell{ShellSpec: spec, Stdin: host.Stdin(), Stdout: host.Stdout(), Stderr: host.Stderr(), Sizes: host.Sizes(), Guest: g}
	if spec.NoStdin {
		shell.Stdin = strings.NewReader("")
	}
	code := g.shell(ctx, shell)
	report := domain.Report{ExitCode: code, Reason: domain.ReasonExited}
	if errors.Is(context.Cause(ctx), ErrShellTimedOut) {
		report = domain.Report{ExitCode: domain.ExitSignaled(9), Signal: "SIGKILL", Reason: domain.ReasonTimeout}
	}
	return errors.Join(host.Stdout().Close(), host.Stderr().Close(), host.Exit(g.life, report))
}

// OpenShell answers an exec-shell by the handshake, and returns the guest's end of it: what scripts lie
// with. ServeShells answers as it should be.
func (g *Guest) OpenShell(id domain.ActionID) (ports.GuestShell, error) {
	g.mu.Lock()
	shell2 := g.features.Has(domain.FeatureShell2)
	g.mu.Unlock()
	query := neturl.Values{wire.QueryID: {string(id)}}
	shell, err := wsshell.Dial(g.life, wsshell.Target{
		URL:    url(wire.PathReply + "?" + query.Encode()),
		Dial:   func(context.Context) (net.Conn, error) { return g.dial() },
		Shell2: shell2,
	})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", http.MethodGet, wire.PathReply, err)
	}
	return shell, nil
}

// dial is a connection in memory to the host, for one request.
func (g *Guest) dial() (net.Conn, error) {
	end, err := g.begin()
	if err != nil {
		return nil, err
	}
	host, guest := newPipe()
	go func() { // ends with the handler; Stop waits for it
		defer end()
		defer host.Close() // it is the handler's only until that returns
		defer context.AfterFunc(g.life, func() { host.Close() })()
		_ = g.serveConn(host) // a broken connection is its guest's to tell
	}()
	return guest, nil
}

// serveConn answers the request on a connection, or leaves the connection to the handler.
func (g *Guest) serveConn(conn net.Conn) error {
	reader := bufio.NewReader(conn)
	req, err := http.ReadRequest(reader)
	if err != nil {
		return err
	}
	var body strings.Builder
	x := g.newExchange(req.WithContext(g.life), &body)
	x.own, x.reader = conn, reader
	defer x.hangUp(nil)
	if err := x.serve(g); err != nil || x.taken {
		return err
	}
	answer := x.response(req, io.NopCloser(strings.NewReader(body.String())))
	answer.ProtoMajor, answer.ProtoMinor, answer.ContentLength = 1, 1, int64(body.Len())
	return answer.Write(conn)
}
