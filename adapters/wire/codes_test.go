package wire_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// statuses are those of version 1, and the refusals beyond it.
var statuses = map[domain.Code]int{
	"MethodNotAllowed":   405,
	"NoSuchEndPoint":     404,
	"InternalError":      500,
	"ResourceConflict":   409,
	"UnknownActionId":    400,
	"InvalidPayload":     400,
	"Unauthorized":       401,
	"Forbidden":          403,
	"PayloadTooLarge":    413,
	"MisdirectedRequest": 421,
	"TooManyRequests":    503,
}

func TestEachCodeHasItsStatus(t *testing.T) {
	for code, want := range statuses {
		if got := wire.Status(code); got != want {
			t.Errorf("%s has the status %d, want %d", code, got, want)
		}
	}
	for code := range wire.Statuses {
		if statuses[code] == 0 {
			t.Errorf("%s is not a code of the protocol", code)
		}
	}
	if got := wire.Status("Other"); got != http.StatusInternalServerError {
		t.Errorf("a code that nobody knows has the status %d", got)
	}
}

// What guests are told is written down, all of it: three codes once were not.
func TestTheManualHasEachCode(t *testing.T) {
	manual, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[domain.Code]int)
	_, table, _ := strings.Cut(string(manual), "| code | status | when |\n")
	for line := range strings.Lines(table) {
		var code string
		var status int
		if n, _ := fmt.Sscanf(strings.ReplaceAll(line, "`", " "), "| %s | %d", &code, &status); n == 2 {
			told[domain.Code(code)] = status
		} else if !strings.HasPrefix(line, "|") {
			break
		}
	}
	if !maps.Equal(told, statuses) {
		t.Errorf("the manual has %v, want %v", told, statuses)
	}
}

// Each error of the app reaches the guest as its code, however it is wrapped, and is that code there.
func TestEachErrorReachesTheGuest(t *testing.T) {
	want := map[error]domain.Code{
		domain.ErrUnknownAction: domain.CodeUnknownActionID,
		domain.ErrConflict:      domain.CodeResourceConflict,
		domain.ErrStorage:       domain.CodeInternalError,
		domain.ErrLog:           domain.CodeInternalError,
		domain.ErrTooMany:       domain.CodeTooManyRequests,
		domain.ErrUnauthorized:  domain.CodeUnauthorized,
		domain.ErrTokenTaken:    domain.CodeResourceConflict,
		domain.ErrNoToken:       domain.CodeNoSuchEndPoint,
		domain.ErrInvalidReply:  domain.CodeInvalidPayload,
		domain.ErrBrokenReply:   domain.CodeInvalidPayload,
		domain.ErrSlowReply:     domain.CodeInvalidPayload,
		domain.ErrInvalidReport: domain.CodeInvalidPayload,
		domain.ErrInvalidHello:  domain.CodeInvalidPayload,
	}
	for _, err := range wire.Refused() {
		if _, ok := want[err]; !ok {
			t.Errorf("the table has %q, which this test does not know", err)
		}
	}
	for err, code := range want {
		for _, err := range []error{err, fmt.Errorf("more: %w", err), errors.Join(err, errors.New("other"))} {
			t.Run(err.Error(), func(t *testing.T) { crosses(t, err, code) })
		}
	}
	crosses(t, &domain.LimitError{Limit: "ArtifactBytes", Max: 1, Unit: "bytes"}, domain.CodePayloadTooLarge)
	crosses(t, errors.New("something else"), domain.CodeInternalError)
	for code := range statuses {
		crosses(t, &domain.Error{Code: code, Message: "why"}, code)
	}
}

// crosses brings err over the wire.
func crosses(t *testing.T, err error, code domain.Code) {
	t.Helper()
	refusal := wire.Refusal(err)
	if refusal.Code != code || refusal.Message == "" {
		t.Errorf("%q becomes %+v, want %s and a message", err, refusal, code)
	}
	got := wire.DecodeError(wire.Status(refusal.Code), wire.EncodeError(refusal))
	if !errors.Is(got, &domain.Error{Code: code}) {
		t.Errorf("the guest gets %v", got)
	}
	for other := range statuses {
		if other != code && errors.Is(got, &domain.Error{Code: other}) {
			t.Errorf("%v is %s too", got, other)
		}
	}
}

// What is wrong with the host's disk, or where its sockets are, is not the guest's business.
func TestRefusalsDontTellOfTheHost(t *testing.T) {
	disk := &fs.PathError{Op: "write", Path: "/secret/folder", Err: errors.New("no space left")}
	socket := &net.OpError{Op: "read", Net: "unix", Addr: &net.UnixAddr{Name: "/secret/socket", Net: "unix"}, Err: os.ErrDeadlineExceeded}
	for _, err := range []error{
		disk,
		fmt.Errorf("%w: %w", domain.ErrStorage, disk),
		fmt.Errorf("%w: %w", domain.ErrLog, disk),
		fmt.Errorf("%w: %w", domain.ErrBrokenReply, socket),
		errors.Join(domain.ErrBrokenReply, socket),
		fmt.Errorf("%w: the log's connection broke off: %w", domain.ErrNonFatalInternalError, socket),
	} {
		if message := wire.Refusal(err).Message; strings.Contains(message, "secret") {
			t.Errorf("%q tells the guest %q", err, message)
		}
	}
	limit := fmt.Errorf("%w: %w", disk, &domain.LimitError{Limit: "ListBytes", Max: 7, Unit: "bytes"})
	if message := wire.Refusal(limit).Message; message != "more than the 7 bytes that the limit ListBytes allows" {
		t.Errorf("a limit tells the guest %q", message)
	}
}

// What a reply does wrong is told, within bounds.
func TestRefusalsTellWhatTheGuestDidWrong(t *testing.T) {
	err := fmt.Errorf("%w: the content type is wrong%s", domain.ErrInvalidReply, strings.Repeat("!", 5000))
	message := wire.Refusal(err).Message
	if !strings.Contains(message, "content type is wrong") || len(message) > 1100 {
		t.Errorf("it tells %d bytes: %q", len(message), message)
	}
}

func TestAnswersThatAreNoRefusals(t *testing.T) {
	for _, body := range []string{"", "null", "{}", "[]", `"code"`, `{"code":""}`, `{"code":3}`, `{"message":"x"}`,
		"<html>\x1b[31mBad Gateway</html>", strings.Repeat("x", 1<<20)} {
		err := wire.DecodeError(502, []byte(body))
		if refusal, ok := errors.AsType[*domain.Error](err); ok {
			t.Errorf("%.40q is the refusal %v", body, refusal)
		}
		text := err.Error()
		if !strings.Contains(text, "502 Bad Gateway") || strings.Contains(text, "\x1b") || len(text) > 5000 {
			t.Errorf("%.40q is described by %.200q", body, text)
		}
	}
}

func TestIsJSON(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/json":                        true,
		"application/json; charset=utf-8":         true,
		"Application/JSON;charset=\"utf-8\"; v=1": true,
		" application/json ; charset=utf-8 ":      true,
		"":                                        false,
		"application/json2":                       false,
		"application/octet-stream":                false,
		"text/json":                               false,
		"application/json/x":                      false,
		"json":                                    false,
	} {
		if got := wire.IsJSON(contentType); got != want {
			t.Errorf("%q: %t, want %t", contentType, got, want)
		}
	}
}

// Every path of the protocol is one of its own: a typing error would find no endpoint.
func TestPaths(t *testing.T) {
	paths := []string{wire.PathExecute, wire.PathLog, wire.PathSuccess, wire.PathFailed, wire.PathPoll, wire.PathReply, wire.PathPing, wire.PathHello}
	want := []string{"/engine/v1/execute", "/engine/v1/log", "/engine/v1/success", "/engine/v1/failed", "/engine/v1/poll", "/engine/v1/reply", "/engine/v1/ping", "/engine/v2/hello"}
	if !slices.Equal(paths, want) {
		t.Errorf("the paths are %v", paths)
	}
	if wire.QueryID != "id" || wire.HeaderError != "X-Taskcluster-Worker-Error" || wire.FileNotFound != "file-not-found" || wire.DefaultHost != "169.254.169.254" {
		t.Error("a word of version 1 has changed")
	}
}
