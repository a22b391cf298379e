package hostclient_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hexworker/metaservice/adapters/hostclient"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

const secret = "s3cr3t-of-this-guest"

// withToken is a client of the one at this address, which shows a token.
func withToken(t *testing.T, address string) *hostclient.Client {
	t.Helper()
	token, err := domain.ParseToken(secret)
	if err != nil {
		t.Fatal(err)
	}
	client, err := hostclient.New(address, hostclient.Options{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// The handshake of a shell goes another way than all other requests.
func TestHandshakesShowTheToken(t *testing.T) {
	var shown atomic.Value
	server := connect(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown.Store(strings.Join(r.Header["Authorization"], ","))
		w.WriteHeader(http.StatusUnauthorized)
		w.Write(wire.EncodeError(&domain.Error{Code: domain.CodeUnauthorized, Message: "no"}))
	}), "tcp", "127.0.0.1:0")
	client := withToken(t, server.Address())
	_, err := client.OpenShell(t.Context(), "x", true)
	if !errors.Is(err, &domain.Error{Code: domain.CodeUnauthorized}) || shown.Load() != "Bearer "+secret {
		t.Errorf("the handshake shows %q, and returns %v", shown.Load(), err)
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error shows it: %v", err)
	}
}

// Whatever becomes of a request, no error shows the token, and nor does the client itself.
func TestErrorsShowNoToken(t *testing.T) {
	server := connect(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case wire.PathExecute:
			panic(http.ErrAbortHandler)
		case wire.PathPoll:
			io.WriteString(w, "{")
		default:
			w.WriteHeader(http.StatusTeapot)
		}
	}), "tcp", "127.0.0.1:0")
	client := withToken(t, server.Address())
	_, errs1 := client.Execute(t.Context())
	_, errs2 := client.Poll(t.Context())
	_, errs3 := client.Hello(t.Context(), domain.Hello{BootID: "b"})
	errs4 := client.TakeToken(t.Context())
	unreachable := withToken(t, "unix:/nowhere/at/all")
	_, errs5 := unreachable.Execute(t.Context())
	for i, err := range []error{errs1, errs2, errs3, errs4, errs5} {
		if err == nil {
			t.Errorf("request %d went well", i)
		}
		for _, verb := range []string{"%v", "%+v", "%#v"} {
			if text := fmt.Sprintf(verb, err); strings.Contains(text, secret) {
				t.Errorf("request %d: %s", i, text)
			}
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if text := fmt.Sprintf(verb, client); strings.Contains(text, secret) {
			t.Errorf("the client prints as %s", text)
		}
	}
}

// The token isn't asked for twice by a connection that broke: the host would take that for somebody else.
func TestTheTokenIsAskedForOnce(t *testing.T) {
	var asked atomic.Int64
	client := connect(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != wire.PathToken {
			return
		}
		if n, err := io.Copy(io.Discard, r.Body); n != 0 || err != nil {
			t.Errorf("%d bytes came with it, %v", n, err)
		}
		asked.Add(1)
		panic(http.ErrAbortHandler)
	}), "tcp", "127.0.0.1:0")
	if _, err := client.Poll(t.Context()); err == nil { // leaves a connection to be used again
		t.Error("an empty action was taken")
	}
	if err := client.TakeToken(t.Context()); err == nil || client.HasToken() {
		t.Errorf("it has a token: %t, %v", client.HasToken(), err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("it asked %d times", n)
	}
}

// A host that says something else than a token is none that hands one out.
func TestAnswersThatAreNoToken(t *testing.T) {
	for _, answer := range []string{"", "{}", `{"token":""}`, `{"token":"a b"}`, `["x"]`} {
		client := connect(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) }), "tcp", "127.0.0.1:0")
		if err := client.TakeToken(t.Context()); !errors.Is(err, wire.ErrInvalidBody) || client.HasToken() {
			t.Errorf("%q is taken, %v", answer, err)
		}
	}
}
