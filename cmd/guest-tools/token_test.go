//go:build unix

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

const secret = "s3cr3t-of-this-guest"

func writeFile(t *testing.T, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFindingTheToken(t *testing.T) {
	var words bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&words, nil))
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	good := writeFile(t, secret+"\n", 0o600)
	for name, test := range map[string]struct{ given, firmware, want string }{
		"none":                         {"", nowhere, ""},
		"a file":                       {good, nowhere, secret},
		"without a newline":            {writeFile(t, secret, 0o400), nowhere, secret},
		"with another's newline":       {writeFile(t, secret+"\r\n", 0o400), nowhere, secret},
		"the firmware's":               {"", good, secret},
		"a file beside the firmware's": {writeFile(t, "another", 0o600), good, "another"},
	} {
		token, err := findToken(test.given, test.firmware, logger)
		if err != nil || token.Reveal() != test.want {
			t.Errorf("%s: %q, %v", name, token.Reveal(), err)
		}
	}
	if words.Len() > 0 {
		t.Errorf("there is nothing to tell, and it tells %s", &words)
	}
	if token, err := findToken(writeFile(t, secret, 0o644), nowhere, logger); err != nil || token.IsZero() || !strings.Contains(words.String(), "mode=0644") {
		t.Errorf("a file for all to read: %v, %v, and it tells %s", token, err, &words)
	}
	if strings.Contains(words.String(), secret) {
		t.Errorf("the log shows it: %s", &words)
	}
}

func TestTokenFilesThatCantBe(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"missing": nowhere, "a folder": t.TempDir(), "a FIFO": fifo,
		"empty": writeFile(t, "", 0o600), "a newline": writeFile(t, "\n", 0o600), "two lines": writeFile(t, secret+"\n"+secret+"\n", 0o600),
		"a space": writeFile(t, secret+" x", 0o600), "too long": writeFile(t, strings.Repeat(secret, 1000), 0o600),
	} {
		for where, find := range map[string]func() (domain.Token, error){
			"given":        func() (domain.Token, error) { return findToken(path, nowhere, logger) },
			"the firmware": func() (domain.Token, error) { return findToken("", path, logger) },
		} {
			token, err := find()
			if name == "missing" && where == "the firmware" {
				continue
			}
			if err == nil || !token.IsZero() || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s, %s: %v, %v", name, where, token, err)
			}
		}
	}
	_, err := findToken(nowhere, nowhere, logger)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--token-file") {
		t.Errorf("a missing file: %v", err)
	}
}

// helloWithTokens is a host's answer that names tokens.
func helloWithTokens() string {
	return answer("200 OK", "", `{"features":["result","token"]}`)
}

// Guest-tools show the token they were given from the first request on.
func TestEveryRequestShowsTheToken(t *testing.T) {
	host := newRawHost(t, map[string][]string{
		"POST /engine/v2/hello":  {helloWithTokens()},
		"GET /engine/v1/execute": {task("exit 0")},
	})
	tools := startTools(t, t.TempDir(), "", "--token-file", writeFile(t, secret, 0o600), "--host", host.listener.Addr().String())
	host.await("PUT /engine/v1/success", 1)
	if code := tools.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	host.mu.Lock()
	defer host.mu.Unlock()
	for _, exchange := range host.exchanges {
		if !strings.Contains(exchange.request, "Authorization: Bearer "+secret) {
			t.Errorf("%s shows none:\n%s", exchange.name, exchange.request)
		}
	}
	if len(host.exchanges) < 4 || strings.Contains(tools.stderr.String(), secret) {
		t.Errorf("%d requests, and the log\n%s", len(host.exchanges), tools.stderr)
	}
}

// A host that refuses guest-tools for good isn't asked for ever, and they say what to do.
func TestAHostThatRefusesGuestTools(t *testing.T) {
	unauthorized := answer("401 Unauthorized", "", `{"code":"Unauthorized","message":"no"}`)
	for name, test := range map[string]struct {
		answers map[string][]string
		args    []string
		says    string
	}{
		"no token": {map[string][]string{"POST /engine/v2/hello": {unauthorized}}, nil, "give its file by --token-file"},
		"a wrong token": {map[string][]string{"POST /engine/v2/hello": {unauthorized}},
			[]string{"--token-file", writeFile(t, secret, 0o600)}, "--token-file must name the token that this guest was given"},
		"a token that somebody has": {map[string][]string{
			"POST /engine/v2/hello": {helloWithTokens()},
			"POST /engine/v2/token": {answer("409 Conflict", "", `{"code":"ResourceConflict","message":"taken"}`)},
		}, nil, "somebody has the token already"},
	} {
		t.Run(name, func(t *testing.T) {
			host := newRawHost(t, test.answers)
			tools := startTools(t, t.TempDir(), "", append(test.args, "--host", host.listener.Addr().String())...)
			if code := tools.wait(); code != exitFailure || !strings.Contains(tools.stderr.String(), test.says) {
				t.Errorf("exit code %d, and it says\n%s\nnot %q", code, tools.stderr, test.says)
			}
			if strings.Contains(tools.stderr.String(), secret) {
				t.Errorf("it shows its token:\n%s", tools.stderr)
			}
		})
	}
	host := newRawHost(t, map[string][]string{"POST /engine/v1/log": {unauthorized}})
	tools := startTools(t, t.TempDir(), "words", "post-log", "--host", host.listener.Addr().String(), "-")
	if code := tools.wait(); code != exitFailure || !strings.Contains(tools.stderr.String(), "--token-file must name") {
		t.Errorf("post-log: exit code %d, and it says\n%s", code, tools.stderr)
	}
}
