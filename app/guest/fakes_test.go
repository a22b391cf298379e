package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// fakeHost is a ports.Host without a network: it passes everything on to a peer. Its exported-like
// fields are knobs for faults; set them under its lock once it is in use.
type fakeHost struct {
	peer *contract.Peer

	mu       sync.Mutex
	away     error            // what every request and every open log body fails with
	refuse   map[string]error // by the name of the method
	logLimit int              // each log body breaks after so many bytes; 0 is never
	hold     time.Duration    // of polls with nothing to do
	logStall chan struct{}    // while it is open, no log is read
	events   []string
	when     []time.Duration // of events, since the first
	start    time.Time
	bodies   map[*fakeLog]bool
	writes   int                            // to log bodies
	shells   map[domain.ActionID]*fakeShell // those that may be opened
	token    string                         // that is shown; empty is none
}

func newFakeHost(peer *contract.Peer) *fakeHost {
	return &fakeHost{peer: peer, hold: 30 * time.Second, refuse: map[string]error{}, bodies: map[*fakeLog]bool{}, start: time.Now()}
}

func TestFakeHostContract(t *testing.T) {
	contract.Host(t, func(t *testing.T, peer *contract.Peer) ports.Host { return newFakeHost(peer) })
}

var errAway = errors.New("connection refused")

// goAway breaks all connections and refuses new ones; nil is coming back.
func (h *fakeHost) goAway(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = err
	if err != nil {
		for log := range h.bodies {
			log.fail(err)
		}
	}
}

func (h *fakeHost) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// event notes a request, and tells whether it fails.
func (h *fakeHost) event(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, name)
	h.when = append(h.when, time.Since(h.start))
	if h.away != nil {
		return h.away
	}
	if err := h.refuse[strings.Fields(name)[0]]; err != nil || name == "token" {
		return err
	}
	return h.peer.Admit(h.token)
}

// saw is the events so far, without those named.
func (h *fakeHost) saw(but ...string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var saw []string
	for _, event := range h.events {
		skip := false
		for _, b := range but {
			skip = skip || strings.HasPrefix(event, b)
		}
		if !skip {
			saw = append(saw, event)
		}
	}
	return saw
}

// times is when events with this name came.
func (h *fakeHost) times(name string) []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	var times []time.Duration
	for i, event := range h.events {
		if strings.HasPrefix(event, name) {
			times = append(times, h.when[i])
		}
	}
	return times
}

func (h *fakeHost) Hello(_ context.Context, hello domain.Hello) (domain.Features, error) {
	if err := h.event("hello"); err != nil {
		return nil, err
	}
	return h.peer.Hello(hello)
}

func (h *fakeHost) HasToken() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.token != ""
}

func (h *fakeHost) TakeToken(context.Context) error {
	if err := h.event("token"); err != nil {
		return err
	}
	token, err := h.peer.HandToken()
	h.set(func() { h.token = token })
	return err
}

func (h *fakeHost) Execute(context.Context) (domain.Execute, error) {
	if err := h.event("execute"); err != nil {
		return domain.Execute{}, err
	}
	return h.peer.Execute()
}

func (h *fakeHost) Poll(ctx context.Context) (domain.Action, error) {
	if err := h.event("poll"); err != nil {
		return domain.Action{}, err
	}
	h.mu.Lock()
	hold := h.hold
	h.mu.Unlock()
	held := errors.New("nothing to do")
	ctx, cancel := context.WithTimeoutCause(ctx, hold, held)
	defer cancel()
	action, err := h.peer.Poll(ctx)
	if errors.Is(err, held) {
		err = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away != nil {
		return domain.Action{}, h.away
	}
	return action, err
}

func (h *fakeHost) Resolve(_ context.Context, result domain.Result) error {
	if err := h.event(fmt.Sprint("resolve ", result.Success)); err != nil {
		return err
	}
	return h.peer.Resolve(result)
}

func (h *fakeHost) reply(reply contract.Reply) error {
	if err := h.event("reply " + string(reply.ID)); err != nil {
		return err
	}
	return h.peer.Reply(reply)
}

func (h *fakeHost) SendArtifact(_ context.Context, id domain.ActionID, file ports.File) error {
	limit := file.Size()
	if limit == 0 {
		limit = 1 << 20
	}
	content, err := io.ReadAll(io.LimitReader(file, limit))
	if err == nil && int64(len(content)) < file.Size() {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(h.reply(contract.Reply{ID: id, Content: content, Broken: err}), err)
}

func (h *fakeHost) SendNotFound(_ context.Context, id domain.ActionID) error {
	return h.reply(contract.Reply{ID: id, NotFound: true})
}

func (h *fakeHost) SendFolder(_ context.Context, id domain.ActionID, names iter.Seq2[string, error]) error {
	reply := contract.Reply{ID: id}
	for name, err := range names {
		if err != nil {
			reply.Broken = err
			break
		}
		reply.Files = append(reply.Files, name)
	}
	return errors.Join(h.reply(reply), reply.Broken)
}

func (h *fakeHost) SendFolderNotFound(_ context.Context, id domain.ActionID) error {
	return h.reply(contract.Reply{ID: id, NotFound: true})
}

func (h *fakeHost) SendArchive(_ context.Context, id domain.ActionID, files iter.Seq2[ports.FolderFile, error]) error {
	var archive bytes.Buffer
	failed := wire.EncodeArchive(&archive, files)
	reply := contract.Reply{ID: id}
	reply.Broken = wire.DecodeArchive(&archive, func(entry domain.ArchiveEntry, content io.Reader) error {
		text, err := io.ReadAll(content)
		reply.Archive = append(reply.Archive, contract.Archived(entry.Name, string(text), entry.Failure))
		return err
	})
	return errors.Join(h.reply(reply), failed)
}

func (h *fakeHost) SendKilled(_ context.Context, id domain.ActionID) error {
	return h.reply(contract.Reply{ID: id})
}

// fakeLog is a log body by way of a pipe.
type fakeLog struct {
	host *fakeHost
	r    *io.PipeReader
	w    *io.PipeWriter
	left int // until it breaks; -1 is never
	done chan struct{}

	mu     sync.Mutex
	failed error
}

func (h *fakeHost) OpenShell(_ context.Context, id domain.ActionID, shell2 bool) (ports.GuestShell, error) {
	if err := h.event(fmt.Sprintf("shell %s %v", id, shell2)); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	shell := h.shells[id]
	if shell == nil {
		return nil, &domain.Error{Code: domain.CodeUnknownActionID}
	}
	return shell, nil
}

func (h *fakeHost) OpenLog(ctx context.Context) (ports.LogStream, error) {
	err := h.event("log")
	r, w := io.Pipe()
	l := &fakeLog{host: h, r: r, w: w, left: -1, done: make(chan struct{})}
	h.mu.Lock()
	if h.logLimit > 0 {
		l.left = h.logLimit
	}
	h.bodies[l] = true
	stall := h.logStall
	h.mu.Unlock()
	release := context.AfterFunc(ctx, func() { l.fail(context.Cause(ctx)) })
	go func() {
		defer close(l.done)
		defer release()
		if err != nil { // as of a host that isn't there: Write tells
			l.fail(err)
			return
		}
		if stall != nil {
			select {
			case <-stall:
			case <-ctx.Done():
			}
		}
		if err := h.peer.Log(l.r); err != nil {
			l.fail(err)
		} else {
			h.event("logged")
		}
	}()
	return l, nil
}

func (l *fakeLog) fail(err error) {
	l.mu.Lock()
	if l.failed == nil {
		l.failed = err
	}
	l.mu.Unlock()
	l.r.CloseWithError(err)
}

func (l *fakeLog) Write(p []byte) (int, error) {
	l.host.set(func() { l.host.writes++ })
	if l.left >= 0 && len(p) > l.left {
		n, _ := l.w.Write(p[:l.left])
		l.left = 0
		l.fail(errAway)
		<-l.done
		return n, errAway
	}
	n, err := l.w.Write(p)
	if l.left >= 0 {
		l.left -= n
	}
	return n, err
}

func (l *fakeLog) Close() error {
	l.w.Close()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *fakeLog) Abort() {
	select {
	case <-l.done:
	default:
		l.fail(errors.New("aborted"))
		<-l.done
	}
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	delete(l.host.bodies, l)
}

// fakeProcesses starts fake processes, or fails to.
type fakeProcesses struct {
	mu      sync.Mutex
	specs   []ports.ProcessSpec
	fails   error
	slow    time.Duration
	process *fakeProcess
}

func (p *fakeProcesses) Start(spec ports.ProcessSpec) (ports.Process, error) {
	p.mu.Lock()
	p.specs = append(p.specs, spec)
	fails, slow := p.fails, p.slow
	p.mu.Unlock()
	time.Sleep(slow)
	if fails != nil {
		return nil, fails
	}
	return p.process, nil
}

func (p *fakeProcesses) starts() []ports.ProcessSpec {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.specs
}

// fakeProcess is a command that does as the test says.
type fakeProcess struct {
	r *io.PipeReader
	w *io.PipeWriter // what the tree writes

	mu        sync.Mutex
	ended     chan struct{}
	report    domain.Report
	dies      time.Duration // after it was asked to; it is killed when grace is over
	survivors []ports.Survivor
	kills     []time.Duration // the grace of each
	closed    bool
}

func newFakeProcess() *fakeProcess {
	r, w := io.Pipe()
	return &fakeProcess{r: r, w: w, ended: make(chan struct{})}
}

// exit ends the command, and not its output.
func (p *fakeProcess) exit(report domain.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
	default:
		p.report = report
		close(p.ended)
	}
}

func (p *fakeProcess) Output() io.Reader { return p.r }

func (p *fakeProcess) Wait(ctx context.Context) (domain.Report, error) {
	select {
	case <-p.ended:
		return p.report, nil
	case <-ctx.Done():
		return domain.Report{}, context.Cause(ctx)
	}
}

func (p *fakeProcess) Terminate() error { return nil }

func (p *fakeProcess) Kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error) {
	p.mu.Lock()
	p.kills = append(p.kills, grace)
	dies := min(p.dies, grace)
	p.mu.Unlock()
	sleep(ctx, dies)
	p.exit(domain.Report{ExitCode: 143, Signal: "SIGTERM", Reason: domain.ReasonKilled})
	if len(p.survivors) == 0 {
		p.w.Close()
	}
	return p.survivors, nil
}

func (p *fakeProcess) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.exit(domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonKilled})
	p.w.Close()
	return nil
}

// fakeFiles is files in memory. A name that ends with a slash is a folder that fails amid its names.
type fakeFiles map[string]string

type fakeFile struct{ *bytes.Reader }

func (fakeFile) Close() error { return nil }

func (f fakeFiles) Open(path string) (ports.File, error) {
	content, ok := f[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	return fakeFile{bytes.NewReader([]byte(content))}, nil
}

func (f fakeFiles) Walk(_ context.Context, path string) (iter.Seq2[string, error], error) {
	if path == "/nothing" {
		return nil, fs.ErrNotExist
	}
	return func(yield func(string, error) bool) {
		if _, isFile := f[path]; isFile {
			yield(path, nil)
			return
		}
		for i := range 15 {
			if path != "/denied" {
				break
			}
			if !yield("", fmt.Errorf("%w: open /denied/%d: %w", ports.ErrPassedOver, i, fs.ErrPermission)) {
				return
			}
		}
		if yield(path+"/a", nil) && path == "/broken" {
			yield("", fs.ErrPermission)
		}
	}, nil
}

// logBook collects the guest's own log.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// count is how often a text is in the log.
func (l *logBook) count(text string) int { return strings.Count(l.String(), text) }

func (l *logBook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
