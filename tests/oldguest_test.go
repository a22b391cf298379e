package tests

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/app/host"
)

var update = flag.Bool("update", false, "write the golden transcripts anew")

// oldGuest is a guest of version 1 that says what it is told to, byte for byte, and keeps the
// transcript: "> " before what it sends, "< " before what it gets, "# " before what it thinks.
type oldGuest struct {
	t      *testing.T
	w      *world
	conn   *net.TCPConn
	reader *bufio.Reader
	script bytes.Buffer
	id     string // of the last action
	ids    []string
}

// goClient is what Go's client of those years put into every request.
const goClient = "Host: 169.254.169.254\r\nUser-Agent: Go-http-client/1.1\r\n"

func newOldGuest(t *testing.T, limits metaservice.Limits, options ...metaservice.Option) *oldGuest {
	t.Helper()
	return &oldGuest{t: t, w: newWorld(t, limits, options...)}
}

func (g *oldGuest) note(format string, args ...any) {
	if g.script.Len() > 0 {
		g.script.WriteByte('\n')
	}
	fmt.Fprintf(&g.script, "# "+format+"\n", args...)
}

// send sends bytes as they are; ID stands for the last action's.
func (g *oldGuest) send(text string) {
	g.t.Helper()
	if g.conn == nil {
		g.conn = g.w.dial(g.t)
		g.reader = bufio.NewReader(g.conn)
	}
	text = strings.ReplaceAll(text, "ID", g.id)
	if _, err := io.WriteString(g.conn, text); err != nil {
		g.t.Error(err)
	}
	g.write("> ", text)
}

// write adds to the transcript, ids by the order in which they came.
func (g *oldGuest) write(mark, text string) {
	for i, id := range g.ids {
		text = strings.ReplaceAll(text, id, fmt.Sprintf("ID-%d", i+1))
	}
	text = strings.TrimSuffix(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		g.script.WriteString(strings.TrimRight(mark+line, " ") + "\n")
	}
}

var (
	date     = regexp.MustCompile(`(?m)^Date: .*GMT\r$`)
	actionID = regexp.MustCompile(`"id":"([^"]+)"`)
	length   = regexp.MustCompile(`(?m)^Content-Length: (\d+)\r$`)
)

// receive reads one answer, and nothing beyond it.
func (g *oldGuest) receive() {
	g.t.Helper()
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := g.reader.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			g.t.Fatalf("the answer ends after %q: %v", head.String(), err)
		}
	}
	body := []byte{}
	if match := length.FindStringSubmatch(head.String()); match != nil {
		n, err := strconv.Atoi(match[1])
		if err != nil {
			g.t.Fatal(err)
		}
		body = make([]byte, n)
		if _, err := io.ReadFull(g.reader, body); err != nil {
			g.t.Fatal(err)
		}
	}
	if match := actionID.FindSubmatch(body); match != nil && len(match[1]) > 0 {
		g.id = string(match[1])
		g.ids = append(g.ids, g.id)
	}
	g.write("< ", date.ReplaceAllString(head.String(), "Date: DATE\r")+string(body))
	if strings.Contains(head.String(), "\r\nConnection: close\r\n") {
		g.closed()
	}
}

// closed notes that the host closes the connection.
func (g *oldGuest) closed() {
	g.t.Helper()
	n, err := io.Copy(io.Discard, g.reader)
	if timeout, ok := errors.AsType[net.Error](err); n > 0 || ok && timeout.Timeout() {
		g.t.Errorf("the connection is still open: %d bytes more, %v", n, err)
	}
	g.conn.Close()
	g.conn = nil
	g.script.WriteString("(the host closes the connection)\n")
}

// ask sends a request and reads its answer.
func (g *oldGuest) ask(text string) {
	g.t.Helper()
	g.send(text)
	g.receive()
}

func (g *oldGuest) get(path string) { g.ask("GET " + path + " HTTP/1.1\r\n" + goClient + "\r\n") }

func (g *oldGuest) bare(method, path string) {
	g.ask(method + " " + path + " HTTP/1.1\r\n" + goClient + "Content-Length: 0\r\n\r\n")
}

func (g *oldGuest) post(path, contentType, body string) {
	g.ask("POST " + path + " HTTP/1.1\r\n" + goClient + fmt.Sprintf("Content-Length: %d\r\nContent-Type: %s\r\n\r\n", len(body), contentType) + body)
}

// check compares the transcript with the one that is kept.
func (g *oldGuest) check(name string) {
	g.t.Helper()
	file := filepath.Join("testdata", "oldguest", name+".txt")
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o777), os.WriteFile(file, g.script.Bytes(), 0o666)); err != nil {
			g.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		g.t.Fatal(err)
	}
	if !bytes.Equal(want, g.script.Bytes()) {
		g.t.Errorf("%s has changed. It is now:\n%s", file, g.script.Bytes())
	}
}

// Images that were baked years ago speak version 1 by their own bytes, and can't be updated: what they
// get must stay what it was.
func TestAnOldGuest(t *testing.T) {
	const poll, reply, execute, log = "/engine/v1/poll", "/engine/v1/reply?id=ID", "/engine/v1/execute", "/engine/v1/log"
	const jsonType = "application/json; charset=utf-8"
	const fileType = "application/octet-stream"
	failing := metaservice.Option(func(c *host.Config) { c.Log = brokenSink{} })

	tests := map[string]struct {
		limits  metaservice.Limits
		options []metaservice.Option
		run     func(t *testing.T, g *oldGuest)
	}{
		"a-task-that-succeeds": {run: func(t *testing.T, g *oldGuest) {
			g.note("Is there a host?")
			g.get("/engine/v1/ping")
			g.note("What is there to run?")
			g.get(execute)
			g.note("It writes its log as it runs, in chunks.")
			g.send("POST " + log + " HTTP/1.1\r\n" + goClient + "Transfer-Encoding: chunked\r\n\r\n")
			g.send("6\r\nhello \r\n")
			eventually(t, "the first chunk is written", func() error {
				if got := g.w.log.String(); got != "hello " {
					return fmt.Errorf("the log is %q", got)
				}
				return nil
			})
			g.send("6\r\nworld\n\r\n")
			g.send("0\r\n\r\n")
			g.receive()
			g.note("It has succeeded.")
			g.bare("PUT", "/engine/v1/success")
			g.note("The answer was lost on the way, so it says that again.")
			g.bare("PUT", "/engine/v1/success")
			if success := <-g.w.results; !success || g.w.log.String() != "hello world\n" {
				t.Errorf("told %t, the log is %q", success, g.w.log)
			}
		}},
		"a-task-that-fails": {run: func(t *testing.T, g *oldGuest) {
			g.note("It has failed, and says so twice.")
			g.bare("PUT", "/engine/v1/failed")
			g.bare("PUT", "/engine/v1/failed")
			g.note("What was resolved one way can't be the other.")
			g.bare("PUT", "/engine/v1/success")
			if <-g.w.results {
				t.Error("told of a success")
			}
			g.note("It has rebooted: it isn't told to run it again.")
			g.get(execute)
			g.note("Nor is its log taken.")
			g.post(log, fileType, "from the second run")
		}},
		"a-log-that-the-host-cannot-write": {options: []metaservice.Option{failing}, run: func(t *testing.T, g *oldGuest) {
			g.note("The host's disk is full. The guest is told what it may try again, and not where the disk is.")
			g.post(log, fileType, "hello world\n")
			g.bare("PUT", "/engine/v1/success")
			if <-g.w.results {
				t.Error("told of a success, without its log")
			}
		}},
		"a-poll-with-nothing-to-do": {limits: metaservice.Limits{Hold: 50 * time.Millisecond}, run: func(t *testing.T, g *oldGuest) {
			g.get(poll)
			g.get(poll)
		}},
		"a-file": {run: func(t *testing.T, g *oldGuest) {
			asked := g.w.get("/tmp/x")
			g.get(poll)
			g.post(reply, fileType, "content")
			if f := <-asked; f.content != "content" || f.err != nil {
				t.Errorf("got %q, %v", f.content, f.err)
			}
			g.note("Once answered, its id is used up.")
			g.post(reply, fileType, "content")
			g.note("Of another file it doesn't know the size.")
			asked = g.w.get("/tmp/y")
			g.get(poll)
			g.send("POST " + reply + " HTTP/1.1\r\n" + goClient + "Transfer-Encoding: chunked\r\nContent-Type: " + fileType + "\r\n\r\n")
			g.ask("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
			if f := <-asked; f.content != "abcdefg" || f.err != nil {
				t.Errorf("got %q, %v", f.content, f.err)
			}
			g.note("An empty file.")
			asked = g.w.get("/tmp/empty")
			g.get(poll)
			g.bare("POST", reply)
			if f := <-asked; f.content != "" || f.err != nil {
				t.Errorf("got %q, %v", f.content, f.err)
			}
		}},
		"a-file-that-is-not-there": {run: func(t *testing.T, g *oldGuest) {
			asked := g.w.get("/tmp/missing")
			g.get(poll)
			g.ask("POST " + reply + " HTTP/1.1\r\n" + goClient + "Content-Length: 0\r\nX-Taskcluster-Worker-Error: file-not-found\r\n\r\n")
			if f := <-asked; f.err != metaservice.ErrResourceNotFound {
				t.Errorf("got %q, %v", f.content, f.err)
			}
		}},
		"a-file-that-is-too-large": {limits: metaservice.Limits{ArtifactBytes: 5}, run: func(t *testing.T, g *oldGuest) {
			asked := g.w.get("/tmp/x")
			g.get(poll)
			g.post(reply, fileType, "content")
			if _, ok := errors.AsType[*metaservice.LimitError]((<-asked).err); !ok {
				t.Error("the caller isn't told of the limit")
			}
		}},
		"a-folder": {limits: metaservice.Limits{Tries: 1}, run: func(t *testing.T, g *oldGuest) {
			asked := g.w.list("/tmp")
			g.get(poll)
			g.post(reply, jsonType, `{"files":["/tmp/a","/tmp/b/c"],"notFound":false}`)
			if l := <-asked; len(l.paths) != 2 || l.err != nil {
				t.Errorf("listed %q, %v", l.paths, l.err)
			}
			g.note("An old guest's word for an empty folder.")
			asked = g.w.list("/tmp/empty")
			g.get(poll)
			g.post(reply, jsonType, `{"files":null,"notFound":false}`)
			if l := <-asked; len(l.paths) != 0 || l.err != nil {
				t.Errorf("listed %q, %v", l.paths, l.err)
			}
			g.note("A folder that isn't there.")
			asked = g.w.list("/tmp/missing")
			g.get(poll)
			g.post(reply, jsonType, `{"files":null,"notFound":true}`)
			if l := <-asked; l.err != metaservice.ErrResourceNotFound {
				t.Errorf("listed %q, %v", l.paths, l.err)
			}
			g.note("The wrong content type.")
			asked = g.w.list("/tmp")
			g.get(poll)
			g.post(reply, "text/plain", `{"files":[],"notFound":false}`)
			if l := <-asked; l.err == nil {
				t.Errorf("listed %q", l.paths)
			}
			g.note("Two lists in one.")
			asked = g.w.list("/tmp")
			g.get(poll)
			g.post(reply, jsonType, `{"files":["/tmp/a"]}{"files":["/tmp/b"]}`)
			if l := <-asked; l.err == nil {
				t.Errorf("listed %q", l.paths)
			}
		}},
		"a-folder-that-is-too-large": {limits: metaservice.Limits{ListEntries: 1}, run: func(t *testing.T, g *oldGuest) {
			asked := g.w.list("/tmp")
			g.get(poll)
			g.post(reply, jsonType, `{"files":["/tmp/a","/tmp/b"],"notFound":false}`)
			if _, ok := errors.AsType[*metaservice.LimitError]((<-asked).err); !ok {
				t.Error("the caller isn't told of the limit")
			}
		}},
		"a-kill": {run: func(t *testing.T, g *oldGuest) {
			killed := make(chan error, 1)
			go func() { killed <- g.w.service.KillProcess() }()
			g.get(poll)
			g.bare("POST", reply)
			if err := <-killed; err != nil {
				t.Error(err)
			}
			g.bare("PUT", "/engine/v1/failed")
			<-g.w.results
		}},
		"what-is-refused": {run: func(t *testing.T, g *oldGuest) {
			g.note("No such end point.")
			g.get("/engine/v1/unknown")
			g.get("/engine/v1/execute/")
			g.get("/")
			g.note("The method is not the end point's own.")
			for _, path := range []string{execute, poll, "/engine/v1/ping"} {
				g.bare("POST", path)
			}
			g.get(log)
			g.get("/engine/v1/success")
			g.bare("POST", "/engine/v1/failed")
			g.bare("DELETE", "/engine/v1/reply?id=x")
			g.note("An action that nobody knows, or no id at all.")
			g.bare("POST", "/engine/v1/reply?id=guessed")
			g.bare("POST", "/engine/v1/reply")
			g.get("/engine/v1/reply?id=guessed")
			g.note("A file is not answered by a websocket; its id is not used up by that.")
			asked := g.w.get("/tmp/x")
			g.get(poll)
			g.ask("GET " + reply + " HTTP/1.1\r\n" + goClient + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			g.post(reply, fileType, "content")
			if f := <-asked; f.err != nil {
				t.Error(f.err)
			}
			g.note("A body that nobody asked for is not read.")
			g.send("POST /engine/v1/reply?id=guessed HTTP/1.1\r\n" + goClient + "Content-Length: 1099511627776\r\n\r\n")
			g.receive()
		}},
		"polls-that-were-stopped": {run: func(t *testing.T, g *oldGuest) {
			g.note("The host wants nothing more, and answers each poll after a second.")
			g.w.service.StopPollers()
			g.get(poll)
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := newOldGuest(t, test.limits, test.options...)
			test.run(t, g)
			g.check(name)
			if g.conn != nil {
				g.conn.Close()
			}
		})
	}
	kept, err := filepath.Glob("testdata/oldguest/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range kept {
		if _, ok := tests[strings.TrimSuffix(filepath.Base(file), ".txt")]; !ok {
			t.Errorf("%s belongs to no scenario any more", file)
		}
	}
}

// brokenSink is a log sink on a full disk.
type brokenSink struct{}

func (brokenSink) Write([]byte) (int, error) {
	return 0, errors.New("write /var/log/tasks/7: no space left on device")
}
