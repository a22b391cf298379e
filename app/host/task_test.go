package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// machine is a ports.Machine whose guest is a function of the test.
type machine struct {
	guest func(ctx context.Context, api ports.GuestAPI) error // what the guest does; its error is what it died of
	err   error                                               // of Boot
	says  string                                              // its last words

	api     ports.GuestAPI // set by the handler
	booted  int
	stopped int
}

func (m *machine) Boot(context.Context, ports.BootOptions) (ports.Guest, error) {
	if m.err != nil {
		return nil, m.err
	}
	m.booted++
	ctx, cancel := context.WithCancel(context.Background())
	g := &guest{m: m, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		g.err = m.guest(ctx, m.api)
	}()
	return g, nil
}

type guest struct {
	m      *machine
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	once   sync.Once
}

func (g *guest) Done() <-chan struct{} { return g.done }

func (g *guest) Err() error {
	select {
	case <-g.done:
		return g.err
	default:
		return nil
	}
}

func (g *guest) LastWords() string { return g.m.says }

func (g *guest) Stop(context.Context) error {
	g.cancel()
	<-g.done
	g.once.Do(func() { g.m.stopped++ })
	return nil
}

// job is a Job for a machine, with the service handed to the guest as it is.
func job(m *machine) host.Job {
	return host.Job{
		Config:  host.Config{IDs: &counter{}, Execute: domain.Execute{Command: []string{"true"}}},
		Machine: m,
		Handler: func(api ports.GuestAPI) ports.Handler { m.api = api; return nil },
	}
}

// poller is a guest that serves polls until its machine is stopped: it kills when it is told to.
func poller(ctx context.Context, api ports.GuestAPI, kill func()) error {
	for ctx.Err() == nil {
		var action domain.Action
		if err := api.Poll(ctx, func(a domain.Action) error { action = a; return nil }); err != nil {
			return nil
		}
		if action.Kind() == domain.KindKillProcess {
			kill()
			api.Killed(ctx, action.ID())
		}
	}
	return nil
}

func report(code int, reason domain.Reason) *domain.Report {
	return &domain.Report{ExitCode: code, Reason: reason}
}

func kill(task *host.Task) {
	if err := task.Kill(); err != nil {
		panic(err)
	}
}

func abort(task *host.Task) {
	if err := task.Abort(); err != nil {
		panic(err)
	}
}

func TestATaskEndsOnce(t *testing.T) {
	succeed := domain.Result{Success: true, Report: report(0, domain.ReasonExited)}
	stay := func(ctx context.Context) error { <-ctx.Done(); return nil }
	tests := []struct {
		name   string
		guest  func(ctx context.Context, api ports.GuestAPI) error
		change func(j *host.Job)
		act    func(task *host.Task)
		status domain.Status
		took   time.Duration
		result bool
		is     []error
		words  []string
	}{
		{
			name: "success",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				api.Resolve(ctx, succeed)
				return stay(ctx)
			},
			status: domain.StatusSuccess, result: true,
		},
		{
			name: "failure",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				api.Resolve(ctx, domain.Result{Report: report(3, domain.ReasonExited)})
				return stay(ctx)
			},
			status: domain.StatusFailed, result: true,
		},
		{
			name: "the machine dies right after the result",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				return errors.Join(api.Resolve(ctx, succeed), errors.New("kernel panic"))
			},
			status: domain.StatusSuccess, result: true,
		},
		{
			name:   "the machine dies at once",
			guest:  func(context.Context, ports.GuestAPI) error { return errors.New("kernel panic") },
			status: domain.StatusMachineDied, words: []string{"kernel panic"},
		},
		{
			name: "the machine dies midway",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				api.Execute(ctx)
				time.Sleep(time.Second)
				return nil
			},
			status: domain.StatusMachineDied, took: time.Second, words: []string{"ended before"},
		},
		{
			name:   "the guest never calls",
			guest:  func(ctx context.Context, _ ports.GuestAPI) error { return stay(ctx) },
			change: func(j *host.Job) { j.BootTimeout = time.Minute },
			status: domain.StatusMachineDied, took: time.Minute, words: []string{"1m0s", "guest-tools"},
		},
		{
			name:  "the guest never calls, and its console says why",
			guest: func(ctx context.Context, _ ports.GuestAPI) error { return stay(ctx) },
			change: func(j *host.Job) {
				j.BootTimeout = time.Minute
				j.Machine.(*machine).says = "the last lines of its console: no such disk"
			},
			status: domain.StatusMachineDied, took: time.Minute, words: []string{"1m0s", "address? the last lines of its console: no such disk"},
		},
		{
			name: "the guest falls silent",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				api.Poll(ctx, func(domain.Action) error { return nil })
				return stay(ctx)
			},
			status: domain.StatusGuestLost, took: 75 * time.Second, is: []error{domain.ErrGuestLost},
		},
		{
			name: "time-out, and the guest ends its task",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				return poller(ctx, api, func() {
					api.Resolve(ctx, domain.Result{Report: report(143, domain.ReasonKilled)})
				})
			},
			change: func(j *host.Job) { j.Timeout = time.Minute },
			status: domain.StatusTimedOut, took: time.Minute, result: true, is: []error{host.ErrTimedOut}, words: []string{"1m0s"},
		},
		{
			name: "time-out, and the guest is deaf",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				api.Execute(ctx)
				return stay(ctx)
			},
			change: func(j *host.Job) { j.Timeout = time.Minute },
			status: domain.StatusTimedOut, took: 75 * time.Second, is: []error{host.ErrTimedOut}, words: []string{"did not end its task"},
		},
		{
			name: "killed",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				return poller(ctx, api, func() {
					time.Sleep(5 * time.Second)
					api.Resolve(ctx, domain.Result{Report: report(137, domain.ReasonKilled)})
				})
			},
			act:    kill,
			status: domain.StatusKilled, took: 5 * time.Second, result: true,
		},
		{
			name: "killed, and the machine dies of it",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				ctx, cancel := context.WithCancel(ctx)
				poller(ctx, api, cancel)
				return errors.New("init was killed")
			},
			act:    kill,
			status: domain.StatusKilled, words: []string{"init was killed"},
		},
		{
			name:   "aborted",
			guest:  func(ctx context.Context, _ ports.GuestAPI) error { return stay(ctx) },
			act:    abort,
			status: domain.StatusAborted, is: []error{domain.ErrSandboxAborted},
		},
		{
			name: "killed, then aborted",
			guest: func(ctx context.Context, api ports.GuestAPI) error {
				api.Execute(ctx)
				return stay(ctx)
			},
			act: func(task *host.Task) {
				kill(task)
				time.Sleep(time.Second)
				abort(task)
			},
			status: domain.StatusAborted, took: time.Second, is: []error{domain.ErrSandboxAborted},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &machine{guest: test.guest}
				j := job(m)
				if test.change != nil {
					test.change(&j)
				}
				start := time.Now()
				task, err := host.Start(t.Context(), j)
				if err != nil {
					t.Fatal(err)
				}
				if test.act != nil {
					synctest.Wait()
					test.act(task)
				}
				outcome, err := task.Wait(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				if outcome.Status != test.status || (outcome.Result != nil) != test.result {
					t.Errorf("outcome %+v", outcome)
				}
				if len(test.is) > 0 || len(test.words) > 0 {
					wantError(t, outcome.Err, test.is, test.words...)
				} else if outcome.Err != nil {
					t.Errorf("the outcome has an error: %v", outcome.Err)
				}
				tooLate := domain.ErrSandboxTerminated
				if test.status == domain.StatusAborted {
					tooLate = domain.ErrSandboxAborted
				}
				_, opened := task.OpenShell(t.Context(), domain.ShellSpec{})
				for _, err := range []error{task.Kill(), task.Abort(), opened} {
					if !errors.Is(err, tooLate) {
						t.Errorf("after the end: %v, want %v", err, tooLate)
					}
				}
				for range 2 {
					if err := task.Close(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if again, _ := task.Wait(t.Context()); again.Status != test.status {
					t.Errorf("then it was %s", again.Status)
				}
				if m.booted != 1 || m.stopped != 1 {
					t.Errorf("booted %d times, stopped %d times", m.booted, m.stopped)
				}
			})
		})
	}
}

func TestAMachineThatDoesNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no such binary")
		_, err := host.Start(t.Context(), job(&machine{err: broken}))
		wantError(t, err, []error{broken}, "did not start")
	})
}

// What a program says when it is ended is often why: the log goes on until the guest has reported.
func TestTheLogGoesOnWhileATaskIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink bytes.Buffer
		m := &machine{guest: func(ctx context.Context, api ports.GuestAPI) error {
			log := newBody()
			ended := make(chan error, 1)
			go func() { ended <- api.Log(ctx, log) }()
			return poller(ctx, api, func() {
				log.chunks <- []byte("last words")
				log.end <- io.EOF
				<-ended
				api.Resolve(ctx, domain.Result{Report: report(143, domain.ReasonKilled)})
			})
		}}
		j := job(m)
		j.Log = &sink
		task, err := host.Start(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		defer task.Close(t.Context())
		synctest.Wait()
		kill(task)
		outcome, err := task.Wait(t.Context())
		if err != nil || outcome.Status != domain.StatusKilled || sink.String() != "last words" || !outcome.Log.Complete() {
			t.Errorf("outcome %+v, %v, log %q", outcome, err, sink.String())
		}
	})
}

// folder is a ports.Folder in memory.
type folder struct {
	memory
	mu    sync.Mutex
	names []string
	bad   string // a name that it refuses
}

func (f *folder) File(name string) ports.Storage {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = append(f.names, name)
	if name == f.bad {
		return &memory{create: errors.New("it is a folder")}
	}
	return &f.memory
}

// files is a guest with files: "/file", and "/folder" with what is in it.
func files(s *host.Service, content map[string]string) func(t *testing.T) {
	return func(t *testing.T) {
		for {
			var a domain.Action
			if err := s.Poll(t.Context(), func(got domain.Action) error { a = got; return nil }); err != nil {
				return
			}
			switch a.Kind() {
			case domain.KindListFolder:
				var names []string
				for name := range content {
					if name == a.Path() || strings.HasPrefix(name, a.Path()+"/") {
						names = append(names, `"`+name+`"`)
					}
				}
				reply := `{"notFound":true}`
				if len(names) > 0 || a.Path() == "/empty" {
					reply = `{"files":[` + strings.Join(names, ",") + `]}`
				}
				s.Folder(t.Context(), a.ID(), ports.FolderReply{Body: text(reply), Size: -1, Decode: decodeJSON})
			case domain.KindGetArtifact:
				reply := ports.ArtifactReply{Body: text(content[a.Path()]), Size: int64(len(content[a.Path()]))}
				if content[a.Path()] == "gone" {
					reply.Error = "file-not-found"
				}
				s.Artifact(t.Context(), a.ID(), reply)
			case domain.KindGetFolder:
				s.Archive(t.Context(), a.ID(), archiveOf(a.Path(), content))
			}
		}
	}
}

// What a try that broke off had brought is gone, and must not count when the file comes again: a folder of more than half
// of its limit would fail for good at the first connection that breaks.
func TestAFileThatComesAgainCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *host.Config) { c.Limits.FolderBytes = 15 })
		go func() {
			for tried := false; ; {
				var a domain.Action
				if s.Poll(t.Context(), func(got domain.Action) error { a = got; return nil }) != nil {
					return
				}
				switch a.Kind() {
				case domain.KindListFolder:
					s.Folder(t.Context(), a.ID(), ports.FolderReply{Body: text(`{"files":["/f/a"]}`), Size: -1, Decode: decodeJSON})
				case domain.KindGetArtifact:
					content := text("0123456789")
					if !tried {
						tried = true
						content = newBody()
						content.chunks <- []byte("012345678")
						content.end <- io.ErrUnexpectedEOF
					}
					s.Artifact(t.Context(), a.ID(), ports.ArtifactReply{Body: content, Size: 10})
				}
			}
		}()
		got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return &folder{}, nil }}, nil)
		if got.Files != 1 || got.Bytes != 10 || got.Err != nil {
			t.Errorf("%+v", got)
		}
	})
}

// Files come at the same time, and fail in any order; what is told of them is the same each time.
func TestErrorsOfFilesAreToldInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		for range 3 {
			go func() {
				for {
					var a domain.Action
					if s.Poll(t.Context(), func(got domain.Action) error { a = got; return nil }) != nil {
						return
					}
					if a.Kind() == domain.KindListFolder {
						s.Folder(t.Context(), a.ID(), ports.FolderReply{Body: text(`{"files":["/f/c","/f/a","/f/b"]}`), Size: -1, Decode: decodeJSON})
						continue
					}
					if a.Path() == "/f/a" {
						time.Sleep(time.Second) // the others have failed
					}
					s.Artifact(t.Context(), a.ID(), ports.ArtifactReply{Error: "file-not-found"})
				}
			}()
		}
		got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return &folder{}, nil }}, nil)
		var told []string
		for line := range strings.Lines(fmt.Sprint(got.Err)) {
			told = append(told, line[:strings.Index(line, ": ")])
		}
		if want := []string{`get-artifact of "/f/a"`, `get-artifact of "/f/b"`, `get-artifact of "/f/c"`}; !slices.Equal(told, want) {
			t.Errorf("told of %q, want %q", told, want)
		}
	})
}

func TestCollect(t *testing.T) {
	many := map[string]string{}
	for i := range 100 {
		many["/many/"+strings.Repeat("x", i+1)] = strings.Repeat("y", i)
	}
	gone, solid := map[string]string{}, map[string]string{}
	for i := range 100 {
		solid["/solid/"+strings.Repeat("x", i+1)] = "content" // an empty file fits onto a full disk
		gone["/gone/"+strings.Repeat("x", i+1)] = "gone"
	}
	tests := []struct {
		name    string
		content map[string]string
		path    string
		bad     string
		full    bool  // the disk is
		limit   int64 // on a folder
		want    host.Collected
		is      []error
		words   []string
	}{
		{name: "file", content: map[string]string{"/file": "12345"}, path: "/file", want: host.Collected{IsFile: true, Files: 1, Bytes: 5}},
		{name: "folder", content: many, path: "/many", want: host.Collected{Files: 100, Bytes: 4950}},
		{name: "empty folder", path: "/empty"},
		{name: "missing", path: "/missing", is: []error{domain.ErrResourceNotFound}, words: []string{`"/missing"`}},
		{
			name: "one of them vanished", path: "/f", content: map[string]string{"/f/a": "1", "/f/b": "gone", "/f/c": "3"},
			want: host.Collected{Files: 2, Bytes: 2}, is: []error{domain.ErrResourceNotFound}, words: []string{`"/f/b"`},
		},
		{
			name: "one of them can't be kept", path: "/f", bad: "b", content: map[string]string{"/f/a": "1", "/f/b": "22", "/f/c": "3"},
			want: host.Collected{Files: 2, Bytes: 2}, is: []error{domain.ErrStorage}, words: []string{"it is a folder"},
		},
		{
			name: "refused names", path: "/f", content: map[string]string{"/f/a": "1", "/f/../b": "22"},
			want: host.Collected{Files: 1, Bytes: 1, Refused: 1}, is: []error{domain.ErrRefusedName}, words: []string{"1 names"},
		},
		{name: "all vanished", path: "/gone", content: gone, is: []error{domain.ErrResourceNotFound}, words: []string{"and 92 more"}},
		{name: "hopeless", path: "/solid", full: true, content: solid, is: []error{domain.ErrStorage}, words: []string{"not tried"}},
		{
			name: "over the limit on folders", path: "/many", limit: 100, content: many,
			is: []error{domain.ErrNonFatalInternalError}, words: []string{"100 bytes", "FolderBytes", "not tried"},
		},
	}
	for i := range 2 * len(tests) {
		test, features := tests[i/2], []domain.Features{nil, {domain.FeatureTar}}[i%2]
		t.Run(fmt.Sprint(test.name, features), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t, func(c *host.Config) { c.Limits.FolderBytes = test.limit })
				greet(t, s, features...)
				for range 4 {
					go files(s, test.content)(t)
				}
				target := &folder{bad: test.bad}
				if test.full {
					target.write = errors.New("no space left on device")
				}
				var last host.Progress
				got := s.Collect(t.Context(), host.Wanted{
					Path:   test.path,
					File:   func() (ports.Storage, error) { return &target.memory, nil },
					Folder: func() (ports.Folder, error) { return target, nil },
				}, func(p host.Progress) { last = p })
				if test.limit > 0 && got.Bytes <= test.limit && got.Files > 0 { // which files come first is open
					test.want, last = got, host.Progress{Bytes: got.Bytes, Files: got.Files}
				}
				if got.Missing != (test.name == "missing") {
					t.Errorf("missing: %v", got.Missing)
				}
				if got.Path != test.path || got.IsFile != test.want.IsFile || got.Files != test.want.Files ||
					got.Bytes != test.want.Bytes || got.Refused != test.want.Refused {
					t.Errorf("collected %+v, want %+v", got, test.want)
				}
				if len(test.is) > 0 {
					wantError(t, got.Err, test.is, test.words...)
				} else if got.Err != nil {
					t.Error(got.Err)
				}
				if !test.full && last.Bytes != test.want.Bytes || last.Files != test.want.Files {
					t.Errorf("the last progress was %+v", last)
				}
				if target.left() != 0 {
					t.Errorf("%d files are left open", target.left())
				}
				s.Close()
			})
		})
	}
}

// lookingMachine looks at something for ever, before its guest.
type lookingMachine struct{}

func (lookingMachine) Boot(ctx context.Context, _ ports.BootOptions) (ports.Guest, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("looking at a disk: %w", context.Cause(ctx))
}

// The time for booting once began with the guest: a program that looked at its disk before had all the time there is.
func TestBootTimeoutBoundsTheMachinesStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := job(&machine{})
		j.Machine, j.BootTimeout = lookingMachine{}, time.Minute
		start := time.Now()
		_, err := host.Start(context.Background(), j)
		wantError(t, err, nil, "the machine did not start: looking at a disk: it took longer than its BootTimeout of 1m0s")
		if took := time.Since(start); took != time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}
