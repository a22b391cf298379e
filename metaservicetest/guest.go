package metaservicetest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	neturl "net/url"
	"runtime"
	"strings"
	"sync"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// Options are what the task asked of its machine, as JSON; empty is nothing.
func (g *Guest) Options() []byte { return bytes.Clone(g.options) }

var jsonHeader = http.Header{"Content-Type": {wire.TypeJSON}}

// Hello says that this guest is one of version 2, with these features, and returns the host's. Execute
// and Resolve say it, if nobody has, with all features (with domain.FeatureTar, though, only once ServeActions
// answers: a script that answers by itself may not know that action); a script that wants a guest of version 1
// makes its requests itself, by Client. With domain.FeatureToken, this request and all that follow show the token
// that the host demands of its guest's tools.
func (g *Guest) Hello(features ...domain.Feature) (domain.Features, error) {
	g.mu.Lock()
	g.greeted = true
	if domain.Features(features).Has(domain.FeatureToken) {
		g.holdToken(g.given)
	}
	g.mu.Unlock()
	answer, err := g.call(http.MethodPost, wire.PathHello, jsonHeader, bytes.NewReader(wire.EncodeHello(domain.Hello{
		Version: "metaservicetest", BootID: "1", OS: runtime.GOOS, Arch: runtime.GOARCH, Features: features,
	})))
	if err != nil {
		return nil, err
	}
	offered, err := wire.DecodeFeatures(answer)
	if err != nil {
		return nil, err
	}
	both := domain.Features(features).Both(offered)
	g.mu.Lock()
	g.features = both
	ask := both.Has(domain.FeatureToken) && g.token.IsZero()
	g.mu.Unlock()
	if ask {
		err = g.takeToken()
	}
	return offered, err
}

// takeToken asks the host for a token that no machine has handed over. It may have none for anybody.
func (g *Guest) takeToken() error {
	answer, err := g.call(http.MethodPost, wire.PathToken, nil, nil)
	if errors.Is(err, &domain.Error{Code: domain.CodeNoSuchEndPoint}) {
		return nil
	}
	if err != nil {
		return err
	}
	token, err := wire.DecodeToken(answer)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holdToken(token)
	return err
}

// holdToken keeps the token that requests show from now on; the first counts. g.mu must be held.
func (g *Guest) holdToken(token domain.Token) {
	if token.IsZero() || !g.token.IsZero() {
		return
	}
	g.token = token
	close(g.hasToken)
}

// show shows the token in a request to the protocol's end points that says nothing of its own about that.
func (g *Guest) show(r *http.Request) {
	if _, own := r.Header[wire.HeaderAuthorization]; own || !strings.HasPrefix(r.URL.Path, "/engine/") {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	wire.ShowToken(r.Header, g.token)
}

// greet says hello, unless that was said. A host of version 1 doesn't know the word.
func (g *Guest) greet() error {
	g.mu.Lock()
	greeted := g.greeted
	g.mu.Unlock()
	if greeted {
		return nil
	}
	return g.greetBySelf()
}

func (g *Guest) greetBySelf() error {
	features := domain.Features{domain.FeatureResult, domain.FeatureExec, domain.FeatureShell2, domain.FeatureToken}
	g.mu.Lock()
	g.bySelf = true
	if g.serves {
		features = append(features, domain.FeatureTar)
	}
	g.mu.Unlock()
	_, err := g.Hello(features...)
	if errors.Is(err, &domain.Error{Code: domain.CodeNoSuchEndPoint}) {
		return nil
	}
	return err
}

// Execute asks what to run. A refusal, here and elsewhere, is a *domain.Error.
func (g *Guest) Execute() (domain.Execute, error) {
	if err := g.greet(); err != nil {
		return domain.Execute{}, err
	}
	answer, err := g.call(http.MethodGet, wire.PathExecute, nil, nil)
	if err != nil {
		return domain.Execute{}, err
	}
	return wire.DecodeExecute(answer)
}

// Log appends text to the task's log, as a body of its own, and returns when the host has it.
func (g *Guest) Log(text string) error {
	_, err := g.call(http.MethodPost, wire.PathLog, nil, strings.NewReader(text))
	return err
}

// OpenLog opens a log body, which streams what is written to it.
func (g *Guest) OpenLog() *Log {
	r, w := io.Pipe()
	l := &Log{w: w, done: make(chan struct{})}
	go func() { // ends with the body, or the guest: each request does
		defer close(l.done)
		// A reader of unknown length, of which NewRequest knows nothing more.
		_, l.err = g.call(http.MethodPost, wire.PathLog, nil, struct{ io.ReadCloser }{r})
		_ = r.CloseWithError(errors.Join(errLogOver, l.err))
	}()
	return l
}

var errLogOver = errors.New("the host has ended the log body")

// Log is a log body on its way.
type Log struct {
	w     *io.PipeWriter
	done  chan struct{} // closed when the request is over, and err is set
	err   error
	close sync.Once
}

// Write returns when the host has taken p.
func (l *Log) Write(p []byte) (int, error) { return l.w.Write(p) }

// Close ends the body, and returns nil once the host has said that it has all of it.
func (l *Log) Close() error {
	l.close.Do(func() { l.w.Close() })
	<-l.done
	return l.err
}

// Break breaks the body off, so that the log is incomplete.
func (l *Log) Break() {
	l.close.Do(func() { l.w.CloseWithError(errHungUp) })
	<-l.done
}

// Succeed reports that the task has ended with exit code 0. A host believes nobody who did not Execute
// before.
func (g *Guest) Succeed() error {
	return g.Resolve(domain.Result{Success: true, Report: &domain.Report{Reason: domain.ReasonExited}})
}

// Fail reports that the task has ended with this exit code.
func (g *Guest) Fail(exitCode int) error {
	return g.Resolve(domain.Result{Report: &domain.Report{Reason: domain.ReasonExited, ExitCode: exitCode}})
}

// Resolve reports the task's result, with its report, if it has one. The log should have ended before:
// a host waits for it for a few seconds only.
func (g *Guest) Resolve(result domain.Result) error {
	if err := g.greet(); err != nil {
		return err
	}
	path := wire.PathFailed
	if result.Success {
		path = wire.PathSuccess
	}
	if result.Report == nil {
		_, err := g.call(http.MethodPut, path, nil, nil)
		return err
	}
	_, err := g.call(http.MethodPut, path, jsonHeader, bytes.NewReader(wire.EncodeReport(*result.Report)))
	return err
}

// Poll asks for an action, for as long as the host holds the poll: its kind is domain.KindNone if there
// was nothing to do.
func (g *Guest) Poll() (domain.Action, error) {
	answer, err := g.call(http.MethodGet, wire.PathPoll, nil, nil)
	if err != nil {
		return domain.Action{}, err
	}
	return wire.DecodeAction(answer)
}

// Reply answers an action, with whatever header and body: what a guest may say that lies. ServeActions
// answers as it should be.
func (g *Guest) Reply(id domain.ActionID, header http.Header, body io.Reader) error {
	query := neturl.Values{wire.QueryID: {string(id)}}
	_, err := g.call(http.MethodPost, wire.PathReply+"?"+query.Encode(), header, body)
	return err
}
