package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// hostPatience bounds every wait of the suite.
const hostPatience = 20 * time.Second

// Host is the suite of ports.Host. connect makes one whose host is the peer; what it needs to be
// closed it leaves to t.Cleanup.
func Host(t *testing.T, connect func(t *testing.T, peer *Peer) ports.Host) {
	for name, test := range map[string]func(*testing.T, hostCase){
		"hello":                 hostHello,
		"token":                 hostToken,
		"execute":               hostExecute,
		"poll":                  hostPoll,
		"poll given up":         hostPollEnds,
		"refusals":              hostRefusals,
		"resolve":               hostResolve,
		"artifacts":             hostArtifacts,
		"artifact that grew":    hostGrown,
		"artifact that shrank":  hostShrunk,
		"artifact that fails":   hostUnreadable,
		"folder":                hostFolder,
		"folder that fails":     hostFolderFails,
		"archive":               hostArchive,
		"archive with failures": hostArchiveFailures,
		"archive that breaks":   hostArchiveBreaks,
		"bare replies":          hostBareReplies,
		"log":                   hostLog,
		"log is live":           hostLogLive,
		"log aborted":           hostLogAborted,
		"log refused":           hostLogRefused,
		"log after its context": hostLogContext,
		"all at once":           hostConcurrent,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), hostPatience)
			t.Cleanup(cancel)
			peer := NewPeer()
			test(t, hostCase{ctx: ctx, peer: peer, connect: func() ports.Host { return connect(t, peer) }})
		})
	}
}

type hostCase struct {
	ctx     context.Context
	peer    *Peer
	connect func() ports.Host
}

func (c hostCase) reply(t *testing.T, id domain.ActionID) Reply {
	t.Helper()
	reply, err := c.peer.awaitReply(c.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func noError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func hostHello(t *testing.T, c hostCase) {
	c.peer.Features = domain.Features{domain.FeatureResult, "a-new-one"}
	hello := domain.Hello{Version: "1.2", BootID: "b", OS: "linux", Arch: "amd64", Features: domain.Features{domain.FeatureResult}}
	features, err := c.connect().Hello(c.ctx, hello)
	noError(t, "hello", err)
	same(t, "the host's features", c.peer.Features, features)
	same(t, "the guest's hello", []domain.Hello{hello}, c.peer.hellos)
}

func hostToken(t *testing.T, c hostCase) {
	first, second := c.connect(), c.connect()
	noAnswer := &domain.Error{Code: domain.CodeNoSuchEndPoint}
	if err := first.TakeToken(c.ctx); !errors.Is(err, noAnswer) || first.HasToken() {
		t.Errorf("a host without a token: %v, and has one: %t", err, first.HasToken())
	}
	c.peer.Token = "a-token"
	noError(t, "take the token", first.TakeToken(c.ctx))
	if !first.HasToken() || second.HasToken() {
		t.Errorf("it has the token: %t, and the other: %t", first.HasToken(), second.HasToken())
	}
	c.peer.Actions <- domain.Action{}
	for method, err := range every(c.ctx, first) { // which all show it, or would be refused
		noError(t, method, err)
	}
	for method, err := range every(c.ctx, second) {
		if !errors.Is(err, &domain.Error{Code: domain.CodeUnauthorized}) {
			t.Errorf("%s, without the token, returned %v", method, err)
		}
	}
	if err := second.TakeToken(c.ctx); !errors.Is(err, &domain.Error{Code: domain.CodeResourceConflict}) || second.HasToken() {
		t.Errorf("the token asked for again: %v, and has it: %t", err, second.HasToken())
	}
}

func hostExecute(t *testing.T, c hostCase) {
	c.peer.Task = domain.Execute{Env: map[string]string{"A": "ü=1\n"}, Command: []string{"sh", "-c", "exit 0"}}
	task, err := c.connect().Execute(c.ctx)
	noError(t, "execute", err)
	same(t, "the task", c.peer.Task, task)
}

func hostPoll(t *testing.T, c hostCase) {
	host := c.connect()
	artifact, err := domain.GetArtifact("1", "/tmp/\u00fc x")
	noError(t, "get-artifact", err)
	shell, err := domain.ExecShell("2", domain.ShellSpec{Command: []string{"sh", ""}, TTY: true})
	noError(t, "exec-shell", err)
	kill, err := domain.KillProcess("3")
	noError(t, "kill-process", err)
	for _, action := range []domain.Action{artifact, shell, kill, {}} {
		c.peer.Actions <- action
		got, err := host.Poll(c.ctx)
		noError(t, "poll", err)
		if got.String() != action.String() || !reflect.DeepEqual(got.Shell(), action.Shell()) {
			t.Errorf("the poll brought %v %+v, want %v %+v", got, got.Shell(), action, action.Shell())
		}
	}
}

func hostPollEnds(t *testing.T, c hostCase) {
	host := c.connect()
	gone := errors.New("the guest ends")
	ctx, cancel := context.WithCancelCause(c.ctx)
	go cancel(gone)
	if _, err := host.Poll(ctx); !errors.Is(err, gone) {
		t.Errorf("a poll given up returned %v, want its context's cause", err)
	}
}

// every calls each method that makes one request.
func every(ctx context.Context, host ports.Host) map[string]error {
	errs := make(map[string]error)
	_, errs["hello"] = host.Hello(ctx, domain.Hello{BootID: "b"})
	_, errs["execute"] = host.Execute(ctx)
	_, errs["poll"] = host.Poll(ctx)
	errs["resolve"] = host.Resolve(ctx, domain.Result{Success: true})
	errs["artifact"] = host.SendArtifact(ctx, "a", newMemFile("content"))
	errs["not found"] = host.SendNotFound(ctx, "b")
	errs["folder"] = host.SendFolder(ctx, "c", names("x"))
	errs["folder not found"] = host.SendFolderNotFound(ctx, "d")
	errs["archive"] = host.SendArchive(ctx, "f", folderFiles(map[string]*memFile{"x": newMemFile("content")}))
	errs["killed"] = host.SendKilled(ctx, "e")
	log, err := host.OpenLog(ctx)
	if err == nil {
		err = log.Close()
	}
	errs["log"] = err
	return errs
}

func hostRefusals(t *testing.T, c hostCase) {
	for _, code := range []domain.Code{domain.CodeUnknownActionID, domain.CodeResourceConflict, domain.CodeInternalError, domain.CodeNoSuchEndPoint} {
		c.peer.Refuse = &domain.Error{Code: code, Message: "because of\x1b[31m this"}
		host := c.connect()
		for method, err := range every(c.ctx, host) {
			refusal, ok := errors.AsType[*domain.Error](err)
			if !ok || *refusal != *c.peer.Refuse {
				t.Errorf("%s, refused with %s, returned %v", method, code, err)
			}
			if err != nil && strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("%s: the host's message is not quoted in %q", method, err)
			}
		}
	}
}

func hostResolve(t *testing.T, c hostCase) {
	host := c.connect()
	report := &domain.Report{ExitCode: 137, Signal: "SIGKILL", Reason: domain.ReasonKilled, Message: "by \"us\""}
	want := []domain.Result{{Success: true}, {Success: false}, {Report: report}}
	for _, result := range want {
		noError(t, "resolve", host.Resolve(c.ctx, result))
	}
	same(t, "results", want, c.peer.results)
}

func hostArtifacts(t *testing.T, c hostCase) {
	host := c.connect()
	for _, size := range []int{0, 1, 4096, 128 << 10, 3<<20 + 1} {
		id := domain.ActionID(fmt.Sprint("size-", size))
		file := newMemFile(strings.Repeat("0123456789abcdef", size/16+1)[:size])
		noError(t, "artifact", host.SendArtifact(c.ctx, id, file))
		reply := c.reply(t, id)
		if !bytes.Equal(reply.Content, file.content) || reply.Broken != nil || reply.NotFound {
			t.Errorf("an artifact of %d bytes came as %d bytes, %v, not found: %v", size, len(reply.Content), reply.Broken, reply.NotFound)
		}
		if file.closed {
			t.Error("SendArtifact closed the file, which is its caller's to close")
		}
	}
	file := newMemFile("as the kernel tells it")
	file.size = 0
	noError(t, "an artifact without a size", host.SendArtifact(c.ctx, "kernel", file))
	if reply := c.reply(t, "kernel"); string(reply.Content) != string(file.content) || reply.Broken != nil {
		t.Errorf("a file of size 0 with content came as %q, %v", reply.Content, reply.Broken)
	}
}

func hostGrown(t *testing.T, c hostCase) {
	file := newMemFile(strings.Repeat("a log file ", 100_000))
	file.size = 1000
	noError(t, "artifact", c.connect().SendArtifact(c.ctx, "grown", file))
	if reply := c.reply(t, "grown"); len(reply.Content) != 1000 || reply.Broken != nil {
		t.Errorf("a file that grew after it was opened came as %d bytes (%v), want the 1000 that it had", len(reply.Content), reply.Broken)
	}
}

func hostShrunk(t *testing.T, c hostCase) {
	file := newMemFile(strings.Repeat("x", 100_000))
	file.size = 200_000
	if err := c.connect().SendArtifact(c.ctx, "shrunk", file); err == nil {
		t.Error("a file that shrank was sent without an error")
	}
	if reply := c.reply(t, "shrunk"); reply.Broken == nil {
		t.Errorf("the host took %d bytes of a file that shrank for the whole", len(reply.Content))
	}
}

func hostUnreadable(t *testing.T, c hostCase) {
	broken := errors.New("the disk is broken")
	host := c.connect()
	for id, size := range map[domain.ActionID]int64{"sized": 200_000, "unsized": 0} {
		file := newMemFile(strings.Repeat("x", 100_000))
		file.size, file.fails = size, broken
		if err := host.SendArtifact(c.ctx, id, file); !errors.Is(err, broken) {
			t.Errorf("a file that can't be read to its end returned %v", err)
		}
		if reply := c.reply(t, id); reply.Broken == nil {
			t.Errorf("the host took %d bytes of a file that can't be read for the whole", len(reply.Content))
		}
	}
}

func hostFolder(t *testing.T, c hostCase) {
	host := c.connect()
	many := make([]string, 20_000)
	for i := range many {
		many[i] = fmt.Sprintf("/srv/\"folder\"/with a name that takes some room/%d", i)
	}
	for id, list := range map[domain.ActionID][]string{"none": nil, "some": {"/a b", "/ü\n"}, "many": many} {
		noError(t, "folder", host.SendFolder(c.ctx, id, names(list...)))
		reply := c.reply(t, id)
		if !slices.Equal(reply.Files, list) || reply.NotFound || reply.Broken != nil {
			t.Errorf("%s: %d names came as %d, not found: %v, %v", id, len(list), len(reply.Files), reply.NotFound, reply.Broken)
		}
	}
}

func hostFolderFails(t *testing.T, c hostCase) {
	denied := errors.New("permission denied")
	for id, before := range map[domain.ActionID]int{"at once": 0, "later": 10_000} {
		sequence := func(yield func(string, error) bool) {
			for i := range before {
				if !yield(fmt.Sprint("/some/folder/", i), nil) {
					return
				}
			}
			yield("", denied)
		}
		if err := c.connect().SendFolder(c.ctx, id, sequence); !errors.Is(err, denied) {
			t.Errorf("%s: an error amid names returned %v", id, err)
		}
		if reply := c.reply(t, id); reply.Broken == nil {
			t.Errorf("%s: the host took half a list of %d names for the whole", id, len(reply.Files))
		}
	}
}

func hostBareReplies(t *testing.T, c hostCase) {
	host := c.connect()
	noError(t, "not found", host.SendNotFound(c.ctx, "file"))
	noError(t, "folder not found", host.SendFolderNotFound(c.ctx, "folder"))
	noError(t, "killed", host.SendKilled(c.ctx, "kill"))
	for id, notFound := range map[domain.ActionID]bool{"file": true, "folder": true, "kill": false} {
		reply := c.reply(t, id)
		if reply.NotFound != notFound || len(reply.Content)+len(reply.Files) > 0 || reply.Broken != nil {
			t.Errorf("%s came as %+v", id, reply)
		}
	}
}

func (c hostCase) open(t *testing.T, host ports.Host) ports.LogStream {
	t.Helper()
	log, err := host.OpenLog(c.ctx)
	noError(t, "log", err)
	t.Cleanup(log.Abort)
	return log
}

func hostLog(t *testing.T, c hostCase) {
	log := c.open(t, c.connect())
	var want bytes.Buffer
	for i := range 300 {
		block := bytes.Repeat([]byte{byte(i)}, i*100)
		want.Write(block)
		n, err := log.Write(block)
		if n != len(block) || err != nil {
			t.Fatalf("a block of %d bytes: %d, %v", len(block), n, err)
		}
		clear(block) // it is the writer's again
	}
	noError(t, "close", log.Close())
	if !bytes.Equal(c.peer.log.Bytes(), want.Bytes()) {
		t.Errorf("the log has %d bytes, want the %d that were written", c.peer.log.Len(), want.Len())
	}
	same(t, "how the body ended", true, slices.Equal(c.peer.logEnds, []error{io.EOF}))
	if _, err := log.Write([]byte("late")); err == nil {
		t.Error("a closed log was written to")
	}
	log.Abort()
	noError(t, "a second close", log.Close())
}

func hostLogLive(t *testing.T, c hostCase) {
	log := c.open(t, c.connect())
	for i := range 3 {
		if _, err := log.Write([]byte{'0' + byte(i)}); err != nil {
			t.Fatal(err)
		}
		if !c.peer.await(c.ctx, func() bool { return c.peer.log.Len() == i+1 }) {
			t.Fatal("a byte of the log is held back until there is more")
		}
	}
	noError(t, "close", log.Close())
}

func hostLogAborted(t *testing.T, c hostCase) {
	log := c.open(t, c.connect())
	_, err := log.Write([]byte("half"))
	noError(t, "write", err)
	if !c.peer.await(c.ctx, func() bool { return c.peer.log.Len() == 4 }) {
		t.Fatal("the log didn't come")
	}
	log.Abort()
	if err := log.Close(); err == nil {
		t.Error("Close of a log that was broken off returned nil")
	}
	if !c.peer.await(c.ctx, func() bool { return len(c.peer.logEnds) == 1 }) || c.peer.logEnds[0] == io.EOF {
		t.Errorf("the host saw the log end with %v, want an error", c.peer.logEnds)
	}
}

// A host that refuses a log answers before its end. Nothing must wait for it to read on.
func hostLogRefused(t *testing.T, c hostCase) {
	c.peer.LogFails = &domain.Error{Code: domain.CodeInternalError, Message: "disk full"}
	log := c.open(t, c.connect())
	block := make([]byte, 256<<10)
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = log.Write(block)
	}
	if err == nil {
		t.Error("250 MiB were written into a log that the host had refused")
	}
	if err := log.Close(); err == nil {
		t.Error("Close of a log that the host had refused returned nil")
	}
}

func hostLogContext(t *testing.T, c hostCase) {
	ctx, cancel := context.WithCancel(c.ctx)
	log, err := c.connect().OpenLog(ctx)
	noError(t, "log", err)
	_, err = log.Write([]byte("x"))
	noError(t, "write", err)
	cancel()
	for err == nil {
		_, err = log.Write([]byte("more"))
	}
	if err := log.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("Close of a log whose context has ended returned %v", err)
	}
}

func hostConcurrent(t *testing.T, c hostCase) {
	host := c.connect()
	var all sync.WaitGroup
	for i := range 40 {
		id := domain.ActionID(fmt.Sprint(i))
		all.Go(func() {
			content := strings.Repeat(string(id), 50_000)
			if err := host.SendArtifact(c.ctx, id, newMemFile(content)); err != nil {
				t.Errorf("%s: %v", id, err)
			}
			if reply, err := c.peer.awaitReply(c.ctx, id); err != nil || string(reply.Content) != content {
				t.Errorf("%s: %d bytes, %v", id, len(reply.Content), err)
			}
		})
	}
	all.Wait()
}

// names is a sequence without an error.
func names(list ...string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, name := range list {
			if !yield(name, nil) {
				return
			}
		}
	}
}

// memFile is a file in memory, whose size may be a lie.
type memFile struct {
	content []byte
	size    int64
	fails   error // in place of its end
	read    int
	closed  bool
}

func newMemFile(content string) *memFile {
	return &memFile{content: []byte(content), size: int64(len(content))}
}

func (f *memFile) Size() int64 { return f.size }

func (f *memFile) Close() error { f.closed = true; return nil }

func (f *memFile) Read(p []byte) (int, error) {
	if f.read == len(f.content) {
		if f.fails != nil {
			return 0, f.fails
		}
		return 0, io.EOF
	}
	n := copy(p, f.content[f.read:])
	f.read += n
	return n, nil
}
