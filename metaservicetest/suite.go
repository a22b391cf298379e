package metaservicetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// EngineSetup tells EngineSuite of one kind of engine. New and Payload must be given.
type EngineSetup struct {
	// New makes an engine. The suite disposes of it.
	New func(t *testing.T, options EngineOptions) ports.Engine
	// Payload phrases a task in the engine's JSON.
	Payload func(task EngineTask) []byte
	// Shell phrases a shell's command; nil is ShellBehaviour.Shell. It counts where the engine has shells.
	Shell func(behaviour ShellBehaviour) []string
	// Malformed is a payload that can't be; nil is a command that is a number.
	Malformed []byte
	// Fetches tells that tasks can show Behaviour.Fetch. It counts where the engine has proxies.
	Fetches bool
	// Watch is called at the beginning of each test; what it leaves to t.Cleanup runs when all should be
	// gone. nil is nobody.
	Watch func(t *testing.T)
}

// EngineOptions are what the suite asks of an engine.
type EngineOptions struct {
	MaxConcurrency int // 0 is any number
}

// EngineTask is what the suite asks of a payload.
type EngineTask struct {
	Behaviour
	SetEnv    map[string]string // the payload's variables
	Timeout   time.Duration     // 0 is none
	Artifacts []string
}

// enginePatience bounds every wait of the suite: a guest may be a whole system that has to boot.
const enginePatience = 3 * time.Minute

// EngineSuite is the contract of ports.Engine and all that comes of it, as tests.
func EngineSuite(t *testing.T, setup EngineSetup) {
	for name, test := range map[string]func(*suite){
		"success":                     (*suite).success,
		"failure":                     (*suite).failure,
		"the log is byte-exact":       (*suite).logExact,
		"no log is fine":              (*suite).noLog,
		"environment":                 (*suite).environment,
		"artifacts":                   (*suite).artifacts,
		"kill":                        (*suite).kill,
		"kill that is ignored":        (*suite).killIgnored,
		"abort":                       (*suite).abort,
		"abort amid a wait":           (*suite).abortAmidWait,
		"what comes too late":         (*suite).tooLate,
		"several wait":                (*suite).severalWait,
		"time-out":                    (*suite).timeout,
		"a file":                      (*suite).file,
		"a folder":                    (*suite).folder,
		"a folder's handler stops":    (*suite).folderStops,
		"a folder's files at a time":  (*suite).folderAtOnce,
		"files given up":              (*suite).filesGivenUp,
		"discard":                     (*suite).discard,
		"start twice":                 (*suite).startTwice,
		"start with a ctx that ended": (*suite).startEnded,
		"malformed payload":           (*suite).malformed,
		"concurrency":                 (*suite).concurrency,
		"shells that exit":            shell((*suite).shellExits),
		"shells that echo":            shell((*suite).shellEcho),
		"shells that are aborted":     shell((*suite).shellAbort),
		"shells by their specs":       shell((*suite).shellSpec),
		"shells outlast the task":     shell((*suite).shellLingers),
		"kill with a shell":           shell((*suite).shellKill),
		"kill of a lingering shell":   shell((*suite).shellKillLingering),
		"abort with a shell":          shell((*suite).shellSandboxAbort),
		"proxies":                     (*suite).proxies,
		"dispose of the engine":       (*suite).dispose,
	} {
		t.Run(name, func(t *testing.T) {
			if setup.Watch != nil {
				setup.Watch(t)
			}
			ctx, cancel := context.WithTimeout(context.Background(), enginePatience)
			t.Cleanup(cancel)
			test(&suite{T: t, setup: setup, ctx: ctx})
		})
	}
}

// suite is one test of it.
type suite struct {
	*testing.T
	setup EngineSetup
	ctx   context.Context
}

func (s *suite) engine(options EngineOptions) ports.Engine {
	s.Helper()
	engine := s.setup.New(s.T, options)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), enginePatience)
		defer cancel()
		if err := engine.Dispose(ctx); err != nil {
			s.Errorf("Engine.Dispose: %v", err)
		}
	})
	return engine
}

// builder begins a sandbox, which it leaves to its caller to start or discard.
func (s *suite) builder(engine ports.Engine, task EngineTask, log ports.LogSink) ports.SandboxBuilder {
	s.Helper()
	builder, err := engine.NewSandboxBuilder(ports.SandboxOptions{Payload: s.setup.Payload(task), Log: log})
	if err != nil {
		s.Fatalf("NewSandboxBuilder: %v", err)
	}
	return builder
}

func (s *suite) start(engine ports.Engine, task EngineTask) (ports.Sandbox, *engineLog) {
	s.Helper()
	log := newEngineLog(s.T)
	return s.startBuilder(s.builder(engine, task, log)), log
}

func (s *suite) startBuilder(builder ports.SandboxBuilder) ports.Sandbox {
	s.Helper()
	sandbox, err := builder.StartSandbox(s.ctx)
	if err != nil {
		s.Fatalf("StartSandbox: %v", err)
	}
	return sandbox
}

// run runs a task on an engine of its own, to its end.
func (s *suite) run(task EngineTask) (ports.ResultSet, *engineLog) {
	s.Helper()
	sandbox, log := s.start(s.engine(EngineOptions{}), task)
	return s.result(sandbox, log), log
}

func (s *suite) result(sandbox ports.Sandbox, log *engineLog) ports.ResultSet {
	s.Helper()
	result, err := sandbox.WaitForResult(s.ctx)
	if err != nil {
		s.Fatalf("WaitForResult: %v; the log: %q", err, log)
	}
	log.end()
	return result
}

// isDisposed disposes of a result set, twice.
func (s *suite) disposeResult(result ports.ResultSet) {
	s.Helper()
	for range 2 {
		if err := result.Dispose(); err != nil {
			s.Errorf("Dispose: %v", err)
		}
	}
}

// is checks for an error of a class.
func (s *suite) is(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("%s: the error is %v, want: %v", what, err, want)
	}
}

// ended checks how a task ended.
func (s *suite) ended(result ports.ResultSet, status domain.Status) {
	s.Helper()
	outcome := result.Outcome()
	if outcome.Status != status || result.Success() != (status == domain.StatusSuccess) {
		s.Errorf("the outcome is %s (%v), Success is %v; want %s", outcome.Status, outcome.Err, result.Success(), status)
	}
}

func (s *suite) content(result ports.ResultSet, path, want string) {
	s.Helper()
	file, err := result.ExtractFile(s.ctx, path)
	if err != nil {
		s.Errorf("ExtractFile of %q: %v", path, err)
		return
	}
	defer file.Close()
	for range 2 { // it can be read again
		got, err := io.ReadAll(file)
		if err != nil || string(got) != want {
			s.Errorf("%q holds %.100q (%d bytes), %v; want %.100q (%d bytes)", path, got, len(got), err, want, len(want))
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			s.Errorf("Seek: %v", err)
		}
	}
}

// engineLog is a log sink that is waited for, and that tells of writes after the end.
type engineLog struct {
	mu      sync.Mutex // guards what follows
	text    bytes.Buffer
	ended   bool
	late    int
	changed chan struct{} // closed, and replaced, by each write
}

func newEngineLog(t *testing.T) *engineLog {
	l := &engineLog{changed: make(chan struct{})}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.late > 0 {
			t.Errorf("the log was written to %d times after the result was there", l.late)
		}
	})
	return l
}

func (l *engineLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		l.late++
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return l.text.Write(p)
}

func (l *engineLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

func (l *engineLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await waits until the log is as long as text, or longer.
func (l *engineLog) await(s *suite, text string) {
	s.Helper()
	for {
		l.mu.Lock()
		got, changed := l.text.String(), l.changed
		l.mu.Unlock()
		if len(got) >= len(text) {
			return
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			s.Fatalf("the log is %q, it should have become %q", got, text)
		}
	}
}
