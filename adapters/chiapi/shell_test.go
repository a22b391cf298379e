package chiapi_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// opened is what became of an OpenShell.
type opened struct {
	session ports.ShellSession
	err     error
}

// openShell asks the guest for a shell, on a goroutine of its own, and returns the action's id.
func openShell(t *testing.T, s *host.Service, h http.Handler) (domain.ActionID, <-chan opened) {
	t.Helper()
	got := make(chan opened, 1)
	go func() {
		session, err := s.OpenShell(context.Background(), domain.ShellSpec{Command: []string{"cat"}})
		got <- opened{session, err}
	}()
	return take(t, h).ID(), got
}

// handshake is a guest's request, but for what is changed: lines of the head, each by its name.
func handshake(id domain.ActionID, change map[string]string) string {
	lines := []struct{ name, value string }{
		{"", "GET " + replyTo(id) + " HTTP/1.1"},
		{"Host", "h"},
		{"Connection", "keep-alive, upgrade"}, // as some say it
		{"Upgrade", "WebSocket"},
		{"Sec-WebSocket-Version", "13"},
		{"Sec-WebSocket-Key", "AAECAwQFBgcICQoLDA0ODw=="},
		{"Sec-WebSocket-Protocol", ""},
		{"Origin", ""},
	}
	var head strings.Builder
	for _, line := range lines {
		value, changed := change[line.name]
		if !changed {
			value = line.value
		}
		for _, one := range strings.Split(value, "|") {
			switch {
			case line.name == "":
				head.WriteString(one + "\r\n")
			case one != "":
				head.WriteString(line.name + ": " + one + "\r\n")
			}
		}
	}
	return head.String() + "\r\n"
}

// shakes sends a handshake, and returns the answer's head, with what can be read behind it.
func shakes(t *testing.T, conn net.Conn, request string) (*http.Response, *bufio.Reader) {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return response, r
}

// exits has a guest tell that its shell has succeeded: a masked frame, whose mask is zero.
func exits(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte{0x82, 0x82, 0, 0, 0, 0, byte(domain.FrameExit), 0}); err != nil {
		t.Error(err)
	}
}

// A shell is tried once: a request that can't be its handshake must not take it away from the one that can.
func TestWhatIsNoHandshakeDoesntUseTheShellUp(t *testing.T) {
	type lines = map[string]string
	for name, test := range map[string]struct {
		change lines
		code   domain.Code
		allow  string
	}{
		"no Connection":              {lines{"Connection": ""}, domain.CodeInvalidPayload, ""},
		"another Connection":         {lines{"Connection": "keep-alive"}, domain.CodeInvalidPayload, ""},
		"no Upgrade":                 {lines{"Upgrade": ""}, domain.CodeInvalidPayload, ""},
		"another Upgrade":            {lines{"Upgrade": "h2c"}, domain.CodeInvalidPayload, ""},
		"no version":                 {lines{"Sec-WebSocket-Version": ""}, domain.CodeInvalidPayload, ""},
		"another version":            {lines{"Sec-WebSocket-Version": "8"}, domain.CodeInvalidPayload, ""},
		"no key":                     {lines{"Sec-WebSocket-Key": ""}, domain.CodeInvalidPayload, ""},
		"two keys":                   {lines{"Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==|AAECAwQFBgcICQoLDA0ODw=="}, domain.CodeInvalidPayload, ""},
		"a key of 15 bytes":          {lines{"Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0O"}, domain.CodeInvalidPayload, ""},
		"a key that isn't base64":    {lines{"Sec-WebSocket-Key": "not base64, at all!!!!!!"}, domain.CodeInvalidPayload, ""},
		"HTTP/1.0":                   {lines{"": "GET /engine/v1/reply?id=1 HTTP/1.0"}, domain.CodeInvalidPayload, ""},
		"a browser's":                {lines{"Origin": "http://evil.example"}, domain.CodeForbidden, ""},
		"one of a page without name": {lines{"Origin": "null"}, domain.CodeForbidden, ""},
		"POST":                       {lines{"": "POST /engine/v1/reply?id=1 HTTP/1.1"}, domain.CodeMethodNotAllowed, "GET"},
		"PUT":                        {lines{"": "PUT /engine/v1/reply?id=1 HTTP/1.1"}, domain.CodeMethodNotAllowed, "GET, POST"},
		"HEAD":                       {lines{"": "HEAD /engine/v1/reply?id=1 HTTP/1.1"}, domain.CodeMethodNotAllowed, "GET, POST"},
		"another id":                 {lines{"": "GET /engine/v1/reply?id=2 HTTP/1.1"}, domain.CodeUnknownActionID, ""},
		"no id":                      {lines{"": "GET /engine/v1/reply HTTP/1.1"}, domain.CodeUnknownActionID, ""},
		"an id of bytes":             {lines{"": "GET /engine/v1/reply?id=%1b%00 HTTP/1.1"}, domain.CodeUnknownActionID, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := newService(t, nil)
				dial := serve(t, h)
				id, got := openShell(t, s, h)
				if id != "1" {
					t.Fatalf("the shell's id is %s", id)
				}
				wrong := dial()
				request := handshake(id, test.change)
				if strings.HasPrefix(request, "HEAD") {
					response, _ := shakes(t, wrong, request)
					if response.StatusCode != wire.Status(test.code) || response.Header.Get("Allow") != test.allow {
						t.Errorf("it is answered with %s, Allow: %s", response.Status, response.Header.Get("Allow"))
					}
				} else {
					io.WriteString(wrong, request)
					a, err := readAnswer(wrong)
					if err != nil {
						t.Fatal(err)
					}
					a.refused(t, "the handshake", test.code)
					if allow := a.Header().Get("Allow"); allow != test.allow {
						t.Errorf("Allow is %q, and not %q", allow, test.allow)
					}
				}
				synctest.Wait()
				select {
				case o := <-got:
					t.Fatalf("the shell is over: %v", o.err)
				default:
				}
				right := dial()
				response, rest := shakes(t, right, handshake(id, nil))
				if response.StatusCode != http.StatusSwitchingProtocols {
					t.Fatalf("the right one is answered with %s", response.Status)
				}
				o := <-got
				if o.err != nil {
					t.Fatal(o.err)
				}
				exits(t, right)
				go io.Copy(io.Discard, rest)
				if success, err := o.session.Wait(); !success || err != nil {
					t.Errorf("the shell: %v, %v", success, err)
				}
			})
		})
	}
}

// A handshake is a shell's, and a shell's reply a handshake: 405 tells which.
func TestAHandshakeForWhatIsNoShell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, nil)
		dial := serve(t, h)
		got := fetch(t.Context(), t, s)
		id := take(t, h).ID()
		conn := dial()
		io.WriteString(conn, handshake(id, nil))
		a, err := readAnswer(conn)
		if err != nil {
			t.Fatal(err)
		}
		a.refused(t, "the handshake", domain.CodeMethodNotAllowed)
		if allow := a.Header().Get("Allow"); allow != "POST" {
			t.Errorf("Allow is %q", allow)
		}
		ask(t, h, "POST", replyTo(id), "content").fine(t, "the reply")
		if f := <-got; f.err != nil {
			t.Error(f.err)
		}
	})
}

// Threat 15's other side: a shell that the host waits for was refused where its guest had made all the requests that
// it may. Its handshake is let in once, and nothing that isn't one.
func TestThreat15AShellIsTakenBeyondTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, limited)
		dial := serve(t, h)
		id, got := openShell(t, s, h)
		useUp(t, h)
		try := func(what string, change map[string]string) {
			t.Helper()
			conn := dial()
			go io.WriteString(conn, handshake(id, change))
			a, err := readAnswer(conn)
			if err != nil {
				t.Fatal(err)
			}
			a.refused(t, what, domain.CodeTooManyRequests)
		}
		try("no handshake", map[string]string{"Sec-WebSocket-Key": ""})
		try("a wrong method", map[string]string{"": "POST " + replyTo(id) + " HTTP/1.1"})
		conn := dial()
		response, rest := shakes(t, conn, handshake(id, nil))
		if response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("it is answered with %s", response.Status)
		}
		if o := <-got; o.err != nil {
			t.Fatal(o.err)
		}
		try("another handshake", nil)
		conn.Close()
		io.Copy(io.Discard, rest)
	})
}

// An id has one shell, whether that is open still or over.
func TestAShellIsClaimedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, nil)
		dial := serve(t, h)
		id, got := openShell(t, s, h)
		refused := func(what string) {
			t.Helper()
			conn := dial()
			io.WriteString(conn, handshake(id, nil))
			a, err := readAnswer(conn)
			if err != nil {
				t.Fatal(err)
			}
			a.refused(t, what, domain.CodeUnknownActionID)
		}
		conn := dial()
		response, rest := shakes(t, conn, handshake(id, nil))
		if response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("it is answered with %s", response.Status)
		}
		o := <-got
		if o.err != nil {
			t.Fatal(o.err)
		}
		refused("another handshake")
		exits(t, conn)
		go io.Copy(io.Discard, rest)
		if success, err := o.session.Wait(); !success || err != nil {
			t.Errorf("the shell: %v, %v", success, err)
		}
		conn.Close()
		synctest.Wait()
		refused("a handshake after the end")
	})
}

// Version 2 of the shell protocol is spoken where both named it and the handshake offers it, and nowhere else.
func TestTheShellsVersion(t *testing.T) {
	both := fmt.Sprintf(`{"version":"2","bootId":"1","os":"linux","arch":"amd64","features":[%q,%q]}`, domain.FeatureExec, domain.FeatureShell2)
	exec := fmt.Sprintf(`{"version":"2","bootId":"1","os":"linux","arch":"amd64","features":[%q]}`, domain.FeatureExec)
	for _, test := range []struct {
		name, hello, offer, chosen string
	}{
		{"an old guest", "", "", ""},
		{"an old guest that offers it", "", wsshell.Subprotocol, ""},
		{"a guest without the feature", exec, wsshell.Subprotocol, ""},
		{"a guest with the feature that doesn't offer it", both, "", ""},
		{"a guest that offers something else", both, "chat", ""},
		{"a guest with the feature", both, wsshell.Subprotocol, wsshell.Subprotocol},
		{"a guest that offers others, too", both, "chat, " + wsshell.Subprotocol, wsshell.Subprotocol},
		{"a guest that offers them line by line", both, "chat|" + wsshell.Subprotocol, wsshell.Subprotocol},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := newService(t, nil)
				if test.hello != "" {
					a := ask(t, h, "POST", wire.PathHello, test.hello)
					a.fine(t, "hello")
					if !strings.Contains(a.Body.String(), string(domain.FeatureShell2)) {
						t.Errorf("the host names %s", a.Body)
					}
				}
				dial := serve(t, h)
				id, got := openShell(t, s, h)
				conn := dial()
				response, rest := shakes(t, conn, handshake(id, map[string]string{"Sec-WebSocket-Protocol": test.offer}))
				chosen := response.Header.Values("Sec-WebSocket-Protocol")
				if test.chosen == "" && len(chosen) > 0 || test.chosen != "" && !slices.Equal(chosen, []string{test.chosen}) {
					t.Errorf("it is answered with %s, and %q", response.Status, chosen)
				}
				if got := response.Header.Get("Sec-WebSocket-Extensions"); got != "" {
					t.Errorf("extensions %q are chosen", got)
				}
				o := <-got
				if o.err != nil {
					t.Fatal(o.err)
				}
				// What version 1 must not: a report.
				report := `{"exitCode":0,"reason":"exited"}`
				message := append([]byte{0x82, 0x80 | byte(1+len(report)), 0, 0, 0, 0, byte(domain.FrameReport)}, report...)
				if _, err := conn.Write(message); err != nil {
					t.Error(err)
				}
				exits(t, conn)
				go io.Copy(io.Discard, rest)
				result, err := o.session.Result(t.Context())
				if err != nil || !result.Success || (result.Report != nil) != (test.chosen != "") {
					t.Errorf("the result is %+v, %v", result, err)
				}
			})
		})
	}
}

// A guest that hangs up just after its handshake breaks its shell off, and takes nothing else along.
func TestAGuestThatHangsUpAfterItsHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := newService(t, nil)
		dial := serve(t, h)
		id, got := openShell(t, s, h)
		conn := dial()
		shakes(t, conn, handshake(id, nil))
		conn.Close()
		o := <-got
		if o.err != nil {
			t.Fatal(o.err)
		}
		if success, err := o.session.Wait(); success || err == nil {
			t.Errorf("the shell: %v, %v", success, err)
		}
		again, got := openShell(t, s, h)
		conn = dial()
		shakes(t, conn, handshake(again, nil))
		if o := <-got; o.err != nil {
			t.Error(o.err)
		}
		s.AbortShells()
	})
}
