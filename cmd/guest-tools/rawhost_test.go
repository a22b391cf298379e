//go:build unix

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// rawHost is a host of version 1 that reads and writes HTTP by hand, so that nothing of ours or of
// net/http smooths over what goes over the wire. It answers each request with what its script says, and
// keeps both.
type rawHost struct {
	t        *testing.T
	listener net.Listener
	all      sync.WaitGroup

	mu        sync.Mutex
	answers   map[string][]string // by method and path, one for each request
	exchanges []exchange
	changed   chan struct{}
	conns     []net.Conn
	stopped   chan struct{}
	closing   sync.Once
}

type exchange struct{ name, request, answer string }

// Whatever has no answer in the script gets this; a poll gets none at all, it hangs.
const plainOK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

func answer(status, headers, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", status, headers, len(body), body)
}

func newRawHost(t *testing.T, answers map[string][]string) *rawHost {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &rawHost{t: t, listener: listener, answers: maps.Clone(answers), changed: make(chan struct{}), stopped: make(chan struct{})}
	h.all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns = append(h.conns, conn)
			h.mu.Unlock()
			h.all.Go(func() { h.serve(conn) })
			select {
			case <-h.stopped: // it came just before the end
				conn.Close()
			default:
			}
		}
	})
	t.Cleanup(h.close)
	return h
}

func (h *rawHost) close() {
	h.listener.Close() // and then there is no connection but those that were accepted
	h.closing.Do(func() { close(h.stopped) })
	h.mu.Lock()
	for _, conn := range h.conns {
		conn.Close()
	}
	h.mu.Unlock()
	h.all.Wait()
}

// offer lets the next poll have an action.
func (h *rawHost) offer(actions ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, action := range actions {
		h.answers["GET /engine/v1/poll"] = append(h.answers["GET /engine/v1/poll"], answer("200 OK", "", action))
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *rawHost) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		name, request, err := readRequest(reader)
		if err != nil {
			return
		}
		answer, ok := h.answer(name)
		if !ok {
			return
		}
		h.mu.Lock()
		h.exchanges = append(h.exchanges, exchange{name, request, answer})
		close(h.changed)
		h.changed = make(chan struct{})
		h.mu.Unlock()
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

// answer takes the next answer off the script. A poll waits for one.
func (h *rawHost) answer(name string) (string, bool) {
	for {
		h.mu.Lock()
		queue, changed := h.answers[name], h.changed
		if len(queue) > 0 {
			h.answers[name] = queue[1:]
		}
		h.mu.Unlock()
		switch {
		case len(queue) > 0:
			return queue[0], true
		case name != "GET /engine/v1/poll":
			return plainOK, true
		}
		select {
		case <-changed:
		case <-h.stopped:
			return "", false
		}
	}
}

// readRequest reads a request, and returns it as it came, but for the frames of its chunks.
func readRequest(r *bufio.Reader) (name, request string, err error) {
	var head strings.Builder
	length, chunked := 0, false
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		head.WriteString(line)
		if name == "" {
			fields := strings.Fields(line)
			path, _, _ := strings.Cut(fields[1], "?")
			name = fields[0] + " " + path
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch strings.ToLower(key) {
		case "content-length":
			if length, err = strconv.Atoi(value); err != nil {
				return "", "", err
			}
		case "transfer-encoding":
			chunked = value == "chunked"
		}
		if line == "\r\n" {
			break
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return "", "", err
	}
	if chunked {
		body, err = readChunks(r)
	}
	return name, head.String() + string(body), err
}

func readChunks(r *bufio.Reader) ([]byte, error) {
	var body bytes.Buffer
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(&body, r, n); err != nil {
			return nil, err
		}
		if end, err := r.ReadString('\n'); err != nil || end != "\r\n" {
			return nil, fmt.Errorf("a chunk ends with %q, %v", end, err)
		}
		if n == 0 {
			return body.Bytes(), nil
		}
	}
}

// await waits until there have been n requests of this name.
func (h *rawHost) await(name string, n int) {
	h.t.Helper()
	deadline := after(h.t)
	for {
		h.mu.Lock()
		count, changed := 0, h.changed
		for _, e := range h.exchanges {
			if e.name == name {
				count++
			}
		}
		h.mu.Unlock()
		if count >= n {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			h.t.Fatalf("%d requests %s came, want %d; there are\n%s", count, name, n, h.transcript(nil))
		}
	}
}

var (
	hostHeader = regexp.MustCompile(`(?m)^Host: .*$`)
	wsKey      = regexp.MustCompile(`(?m)^Sec-Websocket-Key: .*$`)
	helloBody  = regexp.MustCompile(`\{"version":"[^"]*","bootId":"[0-9a-f-]{36}","os":"linux","arch":"[a-z0-9]+",`)
	answerSize = regexp.MustCompile(`Content-Length: [1-9]\d*`)
	helloSize  = regexp.MustCompile(`(POST /engine/v2/hello HTTP/1.1\r\n(?:[^\r]+\r\n)*Content-Length: )\d+`)
)

// transcript is all that went over the wire, by endpoint, since the endpoints run at the same time. What
// varies from run to run is replaced.
func (h *rawHost) transcript(replace map[string]string) string {
	h.mu.Lock()
	exchanges := slices.Clone(h.exchanges)
	h.mu.Unlock()
	slices.SortStableFunc(exchanges, func(a, b exchange) int { return strings.Compare(a.name, b.name) })
	var text strings.Builder
	for _, e := range exchanges {
		request := helloSize.ReplaceAllString(e.request, "${1}N")
		request = hostHeader.ReplaceAllString(request, "Host: HOST\r")
		request = wsKey.ReplaceAllString(request, "Sec-Websocket-Key: KEY\r")
		request = helloBody.ReplaceAllString(request, `{"version":"VERSION","bootId":"BOOT","os":"linux","arch":"ARCH",`)
		fmt.Fprintf(&text, "### %s\n%s\n", e.name, mark("> ", request))
		fmt.Fprintf(&text, "%s\n", mark("< ", answerSize.ReplaceAllString(e.answer, "Content-Length: N")))
	}
	out := text.String()
	for from, to := range replace {
		out = strings.ReplaceAll(out, from, to)
	}
	return out
}

// mark puts a mark before each line, and makes its end visible.
func mark(mark, text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\r", `\r`)
		out.WriteString(mark + line + "\n")
	}
	return out.String()
}
