package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/guestfiles"
	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/guest"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

var silence = slog.New(slog.DiscardHandler)

// limits make a world whose parties give up soon.
var limits = metaservice.Limits{
	Hold: 500 * time.Millisecond, Reply: 2 * time.Second, Offer: 5 * time.Second, Stall: time.Second,
	Silence: 5 * time.Second, LogEnd: leastPatience,
}

const leastPatience = time.Second // of any of them

var patience = hostclient.Options{DialTimeout: leastPatience, PollTimeout: 2 * time.Second, AnswerTimeout: 1500 * time.Millisecond}

// sink keeps a log.
type sink struct {
	begun chan struct{} // closed at the first byte

	mu   sync.Mutex
	text strings.Builder
}

func newSink() *sink { return &sink{begun: make(chan struct{})} }

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text.Len() == 0 && len(p) > 0 {
		close(s.begun)
	}
	return s.text.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// tape notes what the host answered.
type tape struct {
	mu      sync.Mutex
	answers []answer
}

// answer is a request and its end; status 0 is none.
type answer struct {
	method, path, id string
	status           int
}

func (t *tape) all() []answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]answer(nil), t.answers...)
}

func (t *tape) record(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := &recorder{ResponseWriter: w}
		a := answer{method: r.Method, path: r.URL.Path, id: r.URL.Query().Get(wire.QueryID)}
		defer func() {
			a.status = recorder.status
			t.mu.Lock()
			defer t.mu.Unlock()
			t.answers = append(t.answers, a)
		}()
		handler.ServeHTTP(recorder, r)
		if recorder.status == 0 { // not after a panic, which is how a handler hangs up
			recorder.status = http.StatusOK
		}
	})
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Hijack is how a shell's connection is taken over.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.status = http.StatusSwitchingProtocols
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// spy is a guest's way to its host that notes what it was handed and what it answered. An old one knows
// nothing of version 2.
type spy struct {
	ports.Host
	old bool

	mu       sync.Mutex
	handed   []domain.ActionID
	answered map[domain.ActionID]int
	success  int // how often one was sent
	failure  int
}

func (s *spy) Hello(ctx context.Context, hello domain.Hello) (domain.Features, error) {
	if s.old {
		return nil, &domain.Error{Code: domain.CodeNoSuchEndPoint, Message: "it is not asked"}
	}
	return s.Host.Hello(ctx, hello)
}

func (s *spy) Poll(ctx context.Context) (domain.Action, error) {
	action, err := s.Host.Poll(ctx)
	if err == nil && action.Kind() != domain.KindNone {
		s.mu.Lock()
		s.handed = append(s.handed, action.ID())
		s.mu.Unlock()
	}
	return action, err
}

func (s *spy) Resolve(ctx context.Context, result domain.Result) error {
	s.mu.Lock()
	if result.Success {
		s.success++
	} else {
		s.failure++
	}
	s.mu.Unlock()
	return s.Host.Resolve(ctx, result)
}

func (s *spy) answer(id domain.ActionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered == nil {
		s.answered = make(map[domain.ActionID]int)
	}
	s.answered[id]++
}

func (s *spy) SendArtifact(ctx context.Context, id domain.ActionID, file ports.File) error {
	s.answer(id)
	return s.Host.SendArtifact(ctx, id, file)
}

func (s *spy) SendFolder(ctx context.Context, id domain.ActionID, names iter.Seq2[string, error]) error {
	s.answer(id)
	return s.Host.SendFolder(ctx, id, names)
}

func (s *spy) SendKilled(ctx context.Context, id domain.ActionID) error {
	s.answer(id)
	return s.Host.SendKilled(ctx, id)
}

func (s *spy) OpenShell(ctx context.Context, id domain.ActionID, shell2 bool) (ports.GuestShell, error) {
	s.answer(id)
	return s.Host.OpenShell(ctx, id, shell2)
}

// world is a real host and a real guest, with a proxy between them.
type world struct {
	service *metaservice.MetaService
	proxy   *Proxy
	address string // the host's own
	storage string
	log     *sink
	told    chan bool // what the callback was
	tape    tape
	lag     *contract.Lag

	stopServing context.CancelFunc
	served      chan error
}

// setting is what a world may be told.
type setting struct {
	limits  metaservice.Limits
	log     io.Writer // nil: the world keeps it
	command []string  // nil is one that nobody runs
	storage string    // nil is a folder of its own
}

func newWorld(set setting) (_ *world, err error) {
	w := &world{lag: contract.WatchLag(), log: newSink(), told: make(chan bool, 10), served: make(chan error, 1), storage: set.storage}
	if set.log == nil {
		set.log = w.log
	}
	if set.command == nil {
		set.command = []string{"task"}
	}
	if w.storage == "" {
		if w.storage, err = os.MkdirTemp("", "faults-"); err != nil {
			return nil, err
		}
	}
	storage, err := metaservice.NewTemporaryStorage(w.storage)
	if err != nil {
		return nil, err
	}
	w.service, err = metaservice.NewWithError(set.command, nil, set.log, func(success bool) { w.told <- success },
		&metaservice.Environment{TemporaryStorage: storage}, metaservice.WithLimits(set.limits))
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.address = listener.Addr().String()
	if w.proxy, err = NewProxy(w.address); err != nil {
		listener.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stopServing = stop
	go func() { w.served <- httpserver.Serve(ctx, listener, w.tape.record(w.service), silence) }()
	return w, nil
}

// close ends the host and the proxy; what it returns is what should not be.
func (w *world) close() (wrong []error) {
	begun := time.Now()
	if err := w.service.Close(); err != nil {
		wrong = append(wrong, fmt.Errorf("Close: %w", err))
	}
	if took := time.Since(begun); took > w.lag.Allowed(2*time.Second) {
		wrong = append(wrong, untimelyError{fmt.Errorf("I9: Close took %s", took)})
	}
	w.stopServing()
	if err := <-w.served; err != nil {
		wrong = append(wrong, fmt.Errorf("Serve: %w", err))
	}
	w.proxy.Close()
	w.lag.Stop()
	return append(wrong, w.left()...)
}

// left is what is stored still, with a name or without.
func (w *world) left() (wrong []error) {
	entries, err := os.ReadDir(w.storage)
	if err != nil || len(entries) > 0 {
		wrong = append(wrong, fmt.Errorf("I11: %d temporary files are left, %w", len(entries), err))
	}
	open, _ := filepath.Glob("/proc/self/fd/*") // none where there is no /proc
	for _, fd := range open {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, w.storage+"/") {
			wrong = append(wrong, fmt.Errorf("I11: %s is open", target))
		}
	}
	return wrong
}

// member is a guest that runs.
type member struct {
	lag   *contract.Lag
	spy   *spy
	guest *guest.Guest
	end   context.CancelFunc
	ended chan error
}

// join starts a guest of this process.
func (w *world) join(folder, bootID string, old bool, programs Programs) (*member, error) {
	client, err := hostclient.New(w.proxy.Address(), patience)
	if err != nil {
		return nil, err
	}
	files, err := guestfiles.New(folder)
	if err != nil {
		return nil, err
	}
	m := &member{lag: contract.WatchLag(), spy: &spy{Host: client, old: old}, ended: make(chan error, 1)}
	m.guest, err = guest.New(guest.Config{
		Host: m.spy, Files: files, Processes: programs, Shells: programs, Version: "test", BootID: bootID, Dir: folder,
	})
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	m.end = end
	go func() {
		defer client.Close()
		m.ended <- m.guest.Run(ctx)
	}()
	return m, nil
}

// leave ends it, and tells what should not be.
func (m *member) leave() (wrong []error) {
	defer m.lag.Stop()
	begun := time.Now()
	m.end()
	m.guest.Hurry()
	if err := <-m.ended; err != nil {
		wrong = append(wrong, fmt.Errorf("the guest ended with %w", err))
	}
	if took := time.Since(begun); took > m.lag.Allowed(time.Second) {
		wrong = append(wrong, untimelyError{fmt.Errorf("I9: the guest took %s to end", took)})
	}
	return wrong
}

// direct makes a request of the host past the proxy, as anybody in the guest may.
func (w *world) direct(method, target string) (int, string, error) {
	r, err := http.NewRequest(method, "http://"+w.address+target, nil)
	if err != nil {
		return 0, "", err
	}
	r.Close = true
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	var refusal domain.Error
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = json.Unmarshal(data, &refusal)
	}
	return response.StatusCode, string(refusal.Code), err
}
