package tests

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	pathpkg "path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/rootfolder"
	"github.com/hexworker/metaservice/adapters/uuids"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// The faults of the ancestor that its host was responsible for, each as a guest meets it: over TCP,
// with bytes that no library has tidied up. What the guest's tools must get right themselves (5, 6,
// 10, 15) is tested with them.

// often is how many times something that must never happen is tried.
func often() int {
	if *contract.Long {
		return 1000
	}
	return 100
}

// reset ends a connection as a guest does that was killed with something unread, or lost its network.
func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// Fault 1. A connection can end in two ways. After a reset, writing fails. After a plain end the
// kernel takes what is written and drops it, since the guest might only have closed its own half; of
// 200 actions on offer in that moment 187 were lost, until the host looked before it wrote.
func TestFault01APollWhoseConnectionHasDiedStillTakesTheNextAction(t *testing.T) {
	for name, kill := range map[string]func(*net.TCPConn){
		"reset":  reset,
		"closed": func(conn *net.TCPConn) { conn.Close() },
		"half":   func(conn *net.TCPConn) { conn.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, metaservice.Limits{Tries: 1, Hold: time.Second, Reply: time.Second})
			lost := 0
			var took []time.Duration
			for range often() {
				for len(w.arrived) > 0 {
					<-w.arrived
				}
				poll := w.dial(t)
				fmt.Fprintf(poll, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", wire.PathPoll)
				<-w.arrived
				kill(poll)
				asked := w.get("/file")
				begun := time.Now()
				id := pollOnce(t, w)
				took = append(took, time.Since(begun))
				if id == "" {
					<-asked
					lost++
					continue
				}
				if status, answer, err := w.reply(id, "content"); status != http.StatusOK {
					t.Errorf("the reply got %d %s, %v", status, answer, err)
				}
				if g := <-asked; g.err != nil || g.content != "content" {
					t.Errorf("got %q, %v", g.content, g.err)
				}
			}
			slices.Sort(took)
			t.Logf("the next poll had it after %s in the median, %s at most", took[len(took)/2], took[len(took)-1])
			if lost > 0 {
				t.Errorf("%d of %d actions were lost", lost, often())
			}
			if late := took[len(took)*95/100]; late > 100*time.Millisecond {
				t.Errorf("one in twenty took more than %s to reach the next poll", late)
			}
		})
	}
}

// pollOnce makes one poll by hand, and returns the action's id: empty if there is nothing to do.
func pollOnce(t *testing.T, w *world) string {
	t.Helper()
	conn := w.dial(t)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", wire.PathPoll)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	var action wire.Action
	if err := json.NewDecoder(response.Body).Decode(&action); err != nil {
		t.Fatal(err)
	}
	return action.ID
}

// Fault 2.
func TestFault02AGuestThatSends1Of1000BytesHoldsGetArtifactForEver(t *testing.T) {
	const stall = 2 * time.Second
	for name, test := range map[string]struct {
		then   func(conn *net.TCPConn)
		reason error
		after  time.Duration
	}{
		"and then nothing": {func(*net.TCPConn) {}, domain.ErrSlowReply, stall},
		"and one a second": {func(conn *net.TCPConn) {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for range tick.C {
				if _, err := conn.Write([]byte("1")); err != nil {
					return
				}
			}
		}, domain.ErrSlowReply, stall},
		"and hangs up":    {func(conn *net.TCPConn) { conn.Close() }, domain.ErrBrokenReply, 0},
		"and is reset":    {reset, domain.ErrBrokenReply, 0},
		"and half closes": {func(conn *net.TCPConn) { conn.CloseWrite() }, domain.ErrBrokenReply, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, metaservice.Limits{Stall: stall, Tries: 1})
			asked := w.get("/file")
			id := w.poll(t).ID
			conn := w.dial(t)
			begun := time.Now()
			fmt.Fprintf(conn, "POST %s?id=%s HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n1", wire.PathReply, id)
			var then sync.WaitGroup
			then.Go(func() { test.then(conn) })
			g := <-asked
			took := time.Since(begun)
			if !errors.Is(g.err, metaservice.ErrNonFatalInternalError) || !errors.Is(g.err, test.reason) {
				t.Errorf("got %q, %v", g.content, g.err)
			}
			if took < test.after || took > test.after+time.Second {
				t.Errorf("it took %s", took)
			}
			w.nothingLeft(t)
			conn.Close()
			then.Wait()
		})
	}
}

// Fault 2, where the caller doesn't want to wait for the limits.
func TestFault02TheCallersContextEndsIt(t *testing.T) {
	w := newWorld(t, metaservice.Limits{})
	ctx, cancel := contextWithCause(t)
	failed := make(chan error, 1)
	go func() {
		_, err := w.service.Artifact(ctx, "/file")
		failed <- err
	}()
	id := w.poll(t).ID
	conn := w.dial(t)
	fmt.Fprintf(conn, "POST %s?id=%s HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n1", wire.PathReply, id)
	eventually(t, "the reply is claimed", func() error {
		if status, answer, err := w.request("GET", wire.PathReply+"?id="+id, ""); status != http.StatusBadRequest {
			return fmt.Errorf("%d %s, %v", status, answer, err)
		}
		return nil
	})
	begun := time.Now()
	own := errors.New("my own reason")
	cancel(own)
	if err := <-failed; !errors.Is(err, own) || time.Since(begun) > time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
	w.nothingLeft(t)
}

// Fault 3.
func TestFault03AListOverTheLimitIsCutAndThenCalledInvalidJSONThreeTimesOver(t *testing.T) {
	names := `"/folder/a"` + strings.Repeat(`,"/folder/a"`, 200)
	for name, limits := range map[string]metaservice.Limits{
		"ListBytes":   {ListBytes: 1000},
		"ListEntries": {ListEntries: 100},
	} {
		for _, announced := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " announced: ", announced), func(t *testing.T) {
				w := newWorld(t, limits)
				asked := w.list("/folder")
				id := w.poll(t).ID
				body := `{"files":[` + names + `],"notFound":false}`
				conn := w.dial(t)
				fmt.Fprintf(conn, "POST %s?id=%s HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n", wire.PathReply, id)
				if announced {
					fmt.Fprintf(conn, "Content-Length: %d\r\n\r\n%s", len(body), body)
				} else {
					fmt.Fprintf(conn, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
				}
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || response.StatusCode != http.StatusRequestEntityTooLarge {
					t.Errorf("the reply got %v, %v", response, err)
				}
				l := <-asked // no other poll is made: it is told at the first try
				limit, ok := errors.AsType[*metaservice.LimitError](l.err)
				if !ok || limit.Limit != name || strings.Count(l.err.Error(), name) != 1 || l.took > 5*time.Second {
					t.Errorf("the caller gets %v after %s", l.err, l.took)
				}
			})
		}
	}
}

// Fault 4.
func TestFault04TheLogBreaksAndTheTaskIsStillASuccessWithHalfItsLog(t *testing.T) {
	for name, test := range map[string]struct {
		request string
		end     func(*net.TCPConn)
		early   bool // the end comes first: net/http holds what there is of a chunk until there is more
	}{
		"announced, closed": {request: "Content-Length: 1000\r\n\r\nhalf of it", end: func(conn *net.TCPConn) { conn.Close() }},
		"chunked, closed":   {request: "Transfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n", end: func(conn *net.TCPConn) { conn.Close() }},
		"amid a chunk":      {request: "Transfer-Encoding: chunked\r\n\r\nff\r\nhalf of it", end: func(conn *net.TCPConn) { conn.CloseWrite() }, early: true},
		"chunked, reset":    {request: "Transfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n", end: reset},
		"garbage":           {request: "Transfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\nzz\r\n", end: func(*net.TCPConn) {}},
		"never ends":        {request: "Transfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n", end: func(*net.TCPConn) {}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, metaservice.Limits{LogEnd: time.Second})
			conn := w.dial(t)
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\n%s", wire.PathLog, test.request)
			if test.early {
				test.end(conn)
			}
			eventually(t, "the half is written", func() error {
				if got := w.log.String(); got != "half of it" {
					return fmt.Errorf("the log is %q", got)
				}
				return nil
			})
			if !test.early {
				test.end(conn)
			}
			if status, answer, err := w.request("PUT", wire.PathSuccess, ""); status != http.StatusOK {
				t.Errorf("the result got %d %s, %v", status, answer, err)
			}
			if <-w.results {
				t.Error("the callback is told of a success")
			}
			outcome, err := w.service.Outcome(t.Context())
			if err != nil || outcome.Succeeded() || !errors.Is(outcome.Err, metaservice.ErrLogIncomplete) || outcome.Log.Bytes != 10 {
				t.Errorf("the outcome is %+v, %v", outcome, err)
			}
		})
	}
}

// Fault 7.
func TestFault07ARebootedGuestIsHandedTheCommandAgain(t *testing.T) {
	for _, path := range []string{wire.PathSuccess, wire.PathFailed} {
		w := newWorld(t, metaservice.Limits{})
		for range 2 { // before the result a reboot may begin anew
			if status, answer, err := w.request("GET", wire.PathExecute, ""); status != http.StatusOK || !strings.Contains(answer, `"command":["sh"`) {
				t.Errorf("execute got %d %s, %v", status, answer, err)
			}
		}
		if status, answer, err := w.request("PUT", path, ""); status != http.StatusOK {
			t.Errorf("the result got %d %s, %v", status, answer, err)
		}
		if success := <-w.results; success != (path == wire.PathSuccess) {
			t.Errorf("told %t", success)
		}
		for range 2 {
			if status, answer, err := w.request("GET", wire.PathExecute, ""); status != http.StatusConflict || strings.Contains(answer, "sh") {
				t.Errorf("after the result execute got %d %s, %v", status, answer, err)
			}
		}
	}
}

// Fault 8. A guest lies about what is in its folder, with names that lead out of it, and serves
// whatever is asked for. The host's files, links among them, must stay as they are.
func TestFault08AHostilePathMakesTheHostPanicOrWriteOutsideTheFolder(t *testing.T) {
	hostile := []string{
		"/folder/../../outside", "/folder/..", "/folder/a/../../../outside", "../outside", "..", "", ".", "/", "/folder/", "/folder",
		"/etc/passwd", "/folderbeside/x", "folder/a", "/folder//double", "/folder/./dot", "/folder/nul\u0000byte", "C:\\outside", "\\\\host\\share",
		"/folder/" + strings.Repeat("long/", 2000), "/folder/" + strings.Repeat("n", 300),
	}
	through := []string{"/folder/link/through", "/folder/absolute/through"} // links that are on the host already
	kept := map[string]string{                                              // what of it may be kept, by its name on the host
		"good": "/folder/good", `back\slash`: `/folder/back\slash`, "-rf": "/folder/-rf", "line\nfeed": "/folder/line\nfeed", "deep/er/file": "/folder/deep/er/file",
	}
	names := slices.Concat(slices.Collect(maps.Values(kept)), hostile, through)
	list, err := json.Marshal(wire.Files{Files: names})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, metaservice.Limits{Tries: 1})

	listed := w.list("/folder")
	if status, answer, err := w.reply(w.poll(t).ID, string(list), "Content-Type", "application/json"); status != http.StatusOK {
		t.Errorf("the list got %d %s, %v", status, answer, err)
	}
	l := <-listed
	if l.err != nil {
		t.Fatal(l.err)
	}
	for _, path := range l.paths {
		if clean := pathpkg.Clean(path); clean != path || !strings.HasPrefix(path, "/folder/") || strings.Contains(path, "\x00") || len(path) > domain.MaxPath {
			t.Errorf("listed is %.100q", path)
		}
	}

	// Collect is the app's own, so this host is put together by hand.
	top := t.TempDir()
	target := filepath.Join(top, "target")
	if err := errors.Join(os.Mkdir(target, 0o777), os.Symlink("..", filepath.Join(target, "link")), os.Symlink(top, filepath.Join(target, "absolute"))); err != nil {
		t.Fatal(err)
	}
	folder, err := rootfolder.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	s, err := host.New(host.Config{IDs: uuids.Random{}, Limits: domain.Limits{Tries: 1}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	guest := &world{address: listener.Addr().String()}
	ctx, cancel := context.WithCancel(t.Context())
	silence := slog.New(slog.DiscardHandler)
	var running sync.WaitGroup
	running.Go(func() { httpserver.Serve(ctx, listener, chiapi.New(s, silence), silence) })
	collected := make(chan host.Collected, 1)
	running.Go(func() {
		collected <- s.Collect(ctx, host.Wanted{Path: "/folder", Folder: func() (ports.Folder, error) { return folder, nil }}, nil)
		s.StopPolls()
	})
	for {
		_, answer, err := guest.request("GET", wire.PathPoll, "")
		var action wire.Action
		if err := errors.Join(err, json.Unmarshal([]byte(answer), &action)); err != nil {
			t.Error(err)
			break
		}
		switch action.Type {
		case "list-folder":
			guest.reply(action.ID, string(list), "Content-Type", "application/json")
			continue
		case "get-artifact":
			guest.reply(action.ID, "content of "+action.Path)
			continue
		}
		break // polls were stopped: all is done
	}
	c := <-collected
	cancel()
	s.Close()
	running.Wait()
	if c.Err == nil || c.Refused != len(hostile) || c.Files != len(kept) {
		t.Errorf("collected %d files, refused %d of %d, %v", c.Files, c.Refused, len(hostile), c.Err)
	}
	got := make(map[string]string)
	err = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(target, path)
		got[filepath.ToSlash(name)] = strings.TrimPrefix(string(content), "content of ")
		return err
	})
	if err != nil || !maps.Equal(got, kept) {
		t.Errorf("the host has %q, want %q; %v", got, kept, err)
	}
}

// Fault 9, as far as the host can tell: what version 1 has no word for isn't a file that isn't there.
func TestFault09EveryErrorWhenOpeningAFileIsToldAsNotFound(t *testing.T) {
	for _, word := range []string{"permission-denied", "is-directory", "FILE-NOT-FOUND", "\t\x80weird"} {
		w := newWorld(t, metaservice.Limits{})
		asked := w.get("/file")
		if status, answer, err := w.reply(w.poll(t).ID, "", wire.HeaderError, word); status != http.StatusOK {
			t.Errorf("%q: the reply got %d %s, %v", word, status, answer, err)
		}
		g := <-asked
		if errors.Is(g.err, metaservice.ErrResourceNotFound) || !errors.Is(g.err, metaservice.ErrNonFatalInternalError) || !errors.Is(g.err, domain.ErrGuestError) {
			t.Errorf("%q: got %q, %v", word, g.content, g.err)
		}
		if text := g.err.Error(); !strings.Contains(text, domain.Quote(strings.TrimSpace(word))) || strings.Contains(text, "\x80") {
			t.Errorf("%q: the error is %q", word, text)
		}
	}
	w := newWorld(t, metaservice.Limits{})
	asked := w.get("/file")
	if status, answer, err := w.reply(w.poll(t).ID, "", wire.HeaderError, wire.FileNotFound); status != http.StatusOK {
		t.Errorf("the reply got %d %s, %v", status, answer, err)
	}
	if g := <-asked; g.err != metaservice.ErrResourceNotFound {
		t.Errorf("got %q, %v", g.content, g.err)
	}
}

// Fault 11.
func TestFault11AReplyWithTheWrongMethodUsesTheActionUp(t *testing.T) {
	w := newWorld(t, metaservice.Limits{})
	asked := w.get("/file")
	id := w.poll(t).ID
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		if status, answer, err := w.request(method, wire.PathReply+"?id="+id, ""); status != http.StatusMethodNotAllowed {
			t.Errorf("%s got %d %s, %v", method, status, answer, err)
		}
	}
	handshake := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	if status, answer, err := w.request("GET", wire.PathReply+"?id="+id, "", handshake...); status != http.StatusMethodNotAllowed {
		t.Errorf("a handshake got %d %s, %v", status, answer, err)
	}
	if status, answer, err := w.reply(id, "content"); status != http.StatusOK {
		t.Errorf("the reply got %d %s, %v", status, answer, err)
	}
	if g := <-asked; g.err != nil || g.content != "content" {
		t.Errorf("got %q, %v", g.content, g.err)
	}
}

// Fault 12. With a token, whoever else in the guest asks gets nothing, and changes nothing. (A guest whose
// tools know of no token can't be told from its task: see TestAnOldGuestIsServedAsEver.) endtoend has a task that tries.
func TestFault12AnyProcessInTheGuestCanResolveTheTaskOrReadItsSecrets(t *testing.T) {
	w := newWorld(t, metaservice.Limits{Requests: 1e6, RequestBurst: 1e6}, metaservice.WithToken(metaservice.TokenRequired))
	status, answer, err := w.request("POST", wire.PathToken, "")
	token, decodeErr := wire.DecodeToken([]byte(answer))
	if status != http.StatusOK || errors.Join(err, decodeErr) != nil {
		t.Fatalf("the tools ask for the token: %d, %v, %v", status, err, decodeErr)
	}
	right := []string{"Authorization", "Bearer " + token.Reveal()}
	asked := w.get("/file")
	_, answer, err = w.request("GET", wire.PathPoll, "", right...)
	var action wire.Action
	if err := errors.Join(err, json.Unmarshal([]byte(answer), &action)); err != nil || action.ID == "" {
		t.Fatalf("the poll got %s, %v", answer, err)
	}
	for _, endPoint := range []string{
		"GET " + wire.PathExecute, "GET " + wire.PathPoll, "GET " + wire.PathPing, "POST " + wire.PathLog, "PUT " + wire.PathSuccess,
		"PUT " + wire.PathFailed, "POST " + wire.PathReply + "?id=" + action.ID, "GET " + wire.PathReply + "?id=" + action.ID, "POST " + wire.PathHello,
	} {
		method, path, _ := strings.Cut(endPoint, " ")
		for _, header := range [][]string{nil, {"Authorization", "Bearer " + token.Reveal()[1:] + "A"}} {
			status, answer, err := w.request(method, path, "words", header...)
			if status != http.StatusUnauthorized || err != nil || strings.Contains(answer, token.Reveal()) {
				t.Errorf("%s got %d %s, %v", endPoint, status, answer, err)
			}
		}
	}
	if status, answer, err := w.request("POST", wire.PathToken, ""); status != http.StatusConflict || err != nil {
		t.Errorf("the token asked for again: %d %s, %v", status, answer, err)
	}
	if w.log.String() != "" || len(w.results) > 0 {
		t.Errorf("the log is %q, and there are %d results", w.log, len(w.results))
	}
	if status, answer, err := w.request("POST", wire.PathReply+"?id="+action.ID, "content", right...); status != http.StatusOK {
		t.Errorf("the tools' own reply got %d %s, %v", status, answer, err)
	}
	if got := <-asked; got.err != nil || got.content != "content" {
		t.Errorf("the file is %q, %v", got.content, got.err)
	}
	if status, answer, err := w.request("PUT", wire.PathFailed, "", right...); status != http.StatusOK {
		t.Errorf("the tools' own result got %d %s, %v", status, answer, err)
	}
	if <-w.results {
		t.Error("the task is a success")
	}
}

// Fault 13.
func TestFault13AGuestThatWentSilentIsNeverNoticed(t *testing.T) {
	w := newWorld(t, metaservice.Limits{Hold: 500 * time.Millisecond, Silence: time.Second})
	pollOnce(t, w)
	begun := time.Now()
	select {
	case <-w.service.Lost():
	case <-time.After(5 * time.Second):
		t.Fatal("it is not noticed")
	}
	if took := time.Since(begun); took < 900*time.Millisecond {
		t.Errorf("it is called lost after %s", took)
	}
}

// Fault 14.
func TestFault14OneLockHeldDuringAnActionBlocksEveryOther(t *testing.T) {
	w := newWorld(t, metaservice.Limits{Tries: 1, Reply: 5 * time.Second})
	hanging := w.get("/hangs")
	if w.poll(t).Path != "/hangs" {
		t.Fatal("another action came first")
	}
	begun := time.Now()
	killed := make(chan error, 1)
	go func() { killed <- w.service.KillProcess() }()
	kill := w.poll(t)
	if status, answer, err := w.reply(kill.ID, ""); kill.Type != "kill-process" || status != http.StatusOK {
		t.Errorf("the reply to %s got %d %s, %v", kill.Type, status, answer, err)
	}
	if err := <-killed; err != nil {
		t.Error(err)
	}
	listed := w.list("/folder")
	if status, answer, err := w.reply(w.poll(t).ID, `{"files":["/folder/a"],"notFound":false}`, "Content-Type", "application/json"); status != http.StatusOK {
		t.Errorf("the list got %d %s, %v", status, answer, err)
	}
	if l := <-listed; l.err != nil || len(l.paths) != 1 {
		t.Errorf("listed %q, %v", l.paths, l.err)
	}
	if status, _, err := w.request("PUT", wire.PathSuccess, ""); status != http.StatusOK {
		t.Errorf("the result got %d, %v", status, err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the others took %s", took)
	}
	select {
	case g := <-hanging:
		t.Errorf("the action that hangs ended first: %v", g.err)
	default:
	}
	w.service.Close()
	if g := <-hanging; !errors.Is(g.err, metaservice.ErrSandboxTerminated) {
		t.Errorf("after Close: %v", g.err)
	}
}

// Invariant 12: an artifact is whole, or an error. Cut anywhere, in whatever way, it is never a short
// file.
func TestACutArtifactIsNeverASuccess(t *testing.T) {
	w := newWorld(t, metaservice.Limits{Tries: 1, Reply: time.Second})
	content := make([]byte, 8<<10)
	rand.Read(content)
	for n := range often() {
		asked := w.get("/file")
		id := w.poll(t).ID
		request := fmt.Appendf(nil, "POST %s?id=%s HTTP/1.1\r\nHost: h\r\n", wire.PathReply, id)
		if n%2 == 0 {
			request = fmt.Appendf(request, "Content-Length: %d\r\n\r\n%s", len(content), content)
		} else {
			request = append(request, "Transfer-Encoding: chunked\r\n\r\n"...)
			for chunk := range slices.Chunk(content, 1000) {
				request = fmt.Appendf(request, "%x\r\n%s\r\n", len(chunk), chunk)
			}
			request = append(request, "0\r\n\r\n"...)
		}
		cut := mathrand.IntN(len(request))
		whole := n%10 == 0
		if whole {
			cut = len(request)
		}
		for len(w.arrived) > 0 {
			<-w.arrived
		}
		conn := w.dial(t)
		if _, err := conn.Write(request[:cut]); err != nil {
			t.Error(err)
		}
		if cut > 200 { // a reset drops what the host has not read: let it see the request at least
			<-w.arrived
		}
		switch {
		case whole: // the guest may hang up as soon as it has said all, but then not with a reset
			conn.CloseWrite()
		case n%3 == 0:
			reset(conn)
		case n%3 == 1:
			conn.CloseWrite()
		default:
			conn.Close()
		}
		g := <-asked
		conn.Close()
		switch {
		case whole && (g.err != nil || g.content != string(content)):
			t.Errorf("whole: %d bytes, %v", len(g.content), g.err)
		case !whole && g.err == nil:
			t.Errorf("cut at byte %d of %d: a success of %d bytes", cut, len(request), len(g.content))
		case !whole && !errors.Is(g.err, domain.ErrBrokenReply) && !errors.Is(g.err, domain.ErrNoReply):
			t.Errorf("cut at byte %d of %d: %v", cut, len(request), g.err)
		}
	}
}

// What one guest sends is not held in memory, or on disk beyond the limit.
func TestAnArtifactOverTheLimit(t *testing.T) {
	for _, announced := range []bool{true, false} {
		w := newWorld(t, metaservice.Limits{ArtifactBytes: 1 << 20})
		asked := w.get("/file")
		id := w.poll(t).ID
		conn := w.dial(t)
		fmt.Fprintf(conn, "POST %s?id=%s HTTP/1.1\r\nHost: h\r\n", wire.PathReply, id)
		if announced {
			fmt.Fprintf(conn, "Content-Length: %d\r\n\r\n", int64(1)<<40)
		} else {
			fmt.Fprintf(conn, "Transfer-Encoding: chunked\r\n\r\n%x\r\n", int64(1)<<40)
		}
		var pouring sync.WaitGroup
		pouring.Go(func() { io.Copy(conn, endless{}) })
		g := <-asked
		limit, ok := errors.AsType[*metaservice.LimitError](g.err)
		if !ok || limit.Limit != "ArtifactBytes" || g.took > 5*time.Second {
			t.Errorf("announced %t: %v after %s", announced, g.err, g.took)
		}
		pouring.Wait() // it ends since the host hangs up
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
