package domain_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hexworker/metaservice/domain"
)

func TestTokensTexts(t *testing.T) {
	for _, text := range []string{"a", "0", "-._~+/", "abc==", "A" + strings.Repeat("x", 511)} {
		token, err := domain.ParseToken(text)
		if err != nil || token.Reveal() != text || token.IsZero() {
			t.Errorf("%q: %v, %q", text, err, token.Reveal())
		}
	}
	for _, text := range []string{"", "=", "==", "a=b", "a b", "a\n", "\x00", "é", "a,b", "a\"", strings.Repeat("x", 513)} {
		token, err := domain.ParseToken(text)
		if !errors.Is(err, domain.ErrInvalidToken) || !token.IsZero() || token.Reveal() != "" {
			t.Errorf("%q is a token: %v", text, err)
		}
		if len(text) > 2 && strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("the error shows what it is about: %v", err)
		}
	}
}

// A token is in many a struct, and some of them get printed.
func TestATokenIsNeverShown(t *testing.T) {
	const secret = "s3cr3t"
	token, err := domain.ParseToken(secret)
	if err != nil {
		t.Fatal(err)
	}
	type exported struct{ Token domain.Token }
	type unexported struct{ token domain.Token }
	var log strings.Builder
	for _, value := range []any{
		token, &token, exported{token}, &exported{token}, unexported{token}, &unexported{token},
		[]domain.Token{token}, map[string]unexported{"a": {token}}, struct{ any }{unexported{token}},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			if text := fmt.Sprintf(verb, value); strings.Contains(text, secret) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", secret)) {
				t.Errorf("%s of a %T shows it: %s", verb, value, text)
			}
		}
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "value", value)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "value", value)
		if text, err := json.Marshal(value); err == nil {
			log.Write(text)
		}
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("a log shows it: %s", log.String())
	}
	if got := fmt.Sprint(token, domain.Token{}); got != "a token no token" {
		t.Errorf("they print as %q", got)
	}
}

func TestTokenModes(t *testing.T) {
	for _, mode := range []domain.TokenMode{"", domain.TokenAuto, domain.TokenRequired, domain.TokenOff} {
		if err := mode.Check(); err != nil {
			t.Errorf("%q: %v", mode, err)
		}
	}
	if err := domain.TokenMode("on").Check(); !errors.Is(err, domain.ErrInvalidTokenMode) {
		t.Errorf("a mode that there isn't: %v", err)
	}
}

const none, wrong, right = domain.ProofNone, domain.ProofWrong, domain.ProofRight

// step is one thing that happens to an Access, and what must come of it.
type step struct {
	do    string
	proof domain.Proof
	want  error
}

func TestAccess(t *testing.T) {
	no := domain.ErrUnauthorized
	for name, test := range map[string]struct {
		mode      domain.TokenMode
		handsOver bool
		steps     []step
	}{
		"off serves all": {domain.TokenOff, true, []step{
			{"request", wrong, nil}, {"hello", wrong, nil}, {"request", none, nil}, {"hand out", none, domain.ErrNoToken},
		}},
		"auto without a way serves all": {domain.TokenAuto, false, []step{
			{"request", wrong, nil}, {"hello", none, nil}, {"hand out", none, domain.ErrNoToken},
		}},
		"auto serves an old guest": {domain.TokenAuto, true, []step{
			{"request", none, nil}, {"hello", none, nil}, {"request", none, nil}, {"hand out", none, domain.ErrNoToken},
		}},
		"auto refuses a wrong one at any time": {domain.TokenAuto, true, []step{
			{"request", wrong, no}, {"hello", wrong, no}, {"request", none, nil},
		}},
		"auto demands it once it was shown": {domain.TokenAuto, true, []step{
			{"request", none, nil}, {"hello", right, nil}, {"request", none, no}, {"hello", none, no}, {"request", right, nil}, {"request", wrong, no},
		}},
		// A line that root posts to the log in a guest whose tools are another user's locks these out otherwise.
		"auto is not begun by a log": {domain.TokenAuto, true, []step{
			{"log", right, nil}, {"request", none, nil}, {"hello", none, nil}, {"log", wrong, no}, {"log", none, nil},
			{"hello", right, nil}, {"log", none, no}, {"log", right, nil}, {"request", none, no},
		}},
		"required demands it of a log": {domain.TokenRequired, true, []step{{"log", none, no}, {"log", wrong, no}, {"log", right, nil}}},
		"a log that shows it had it handed out": {domain.TokenRequired, false, []step{
			{"hand out", none, nil}, {"log", right, nil}, {"lost", none, nil}, {"hand out", none, domain.ErrTokenTaken},
		}},
		"no mode is auto": {"", true, []step{
			{"request", none, nil}, {"request", right, nil}, {"request", none, no},
		}},
		"required demands it from the first request on": {domain.TokenRequired, true, []step{
			{"hello", none, no}, {"request", none, no}, {"hand out", none, domain.ErrNoToken}, {"hello", right, nil}, {"request", right, nil},
		}},
		"required without a way serves hellos until it is handed out": {domain.TokenRequired, false, []step{
			{"hello", none, nil}, {"hello", wrong, no}, {"request", none, no}, {"hand out", wrong, no},
			{"hand out", none, nil}, {"written", none, nil},
			{"hello", none, no}, {"hello", right, nil}, {"request", none, no}, {"request", right, nil},
			{"hand out", none, domain.ErrTokenTaken}, {"hand out", right, domain.ErrTokenTaken}, {"hand out", wrong, no},
		}},
		"what was not written out was not handed out": {domain.TokenRequired, false, []step{
			{"hand out", none, nil}, {"hand out", none, domain.ErrTooMany}, {"lost", none, nil}, {"hello", none, nil},
			{"hand out", none, nil}, {"written", none, nil}, {"hand out", none, domain.ErrTokenTaken},
		}},
		// The guest may be faster than the host's own return from the write.
		"a token that is shown was handed out, whatever the writer says": {domain.TokenRequired, false, []step{
			{"hand out", none, nil}, {"request", right, nil}, {"hand out", none, domain.ErrTokenTaken}, {"hello", none, no},
			{"lost", none, nil}, {"hand out", none, domain.ErrTokenTaken}, {"request", none, no},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			access := domain.NewAccess(test.mode, test.handsOver)
			for i, s := range test.steps {
				var err error
				switch s.do {
				case "request":
					err = access.Request(s.proof)
				case "log":
					err = access.Log(s.proof)
				case "hello":
					err = access.Hello(s.proof)
				case "hand out":
					err = access.HandOut(s.proof)
				case "written", "lost":
					access.HandedOut(s.do == "written")
				}
				if !errors.Is(err, s.want) || err != nil && s.want == nil {
					t.Fatalf("step %d, %s with %s: %v, want %v", i, s.do, s.proof, err, s.want)
				}
			}
		})
	}
}

// Whatever happens, in whatever order: a wrong token is never served, nobody without the right one is once
// that was shown, and the token goes over the wire once.
func TestAccessNeverLetsGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mode := rapid.SampledFrom([]domain.TokenMode{domain.TokenAuto, domain.TokenRequired}).Draw(t, "mode")
		access := domain.NewAccess(mode, rapid.Bool().Draw(t, "handsOver"))
		if !access.HasToken() {
			return
		}
		shown, handing, written := false, false, 0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			proof := rapid.SampledFrom([]domain.Proof{none, wrong, right}).Draw(t, "proof")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				err := access.Request(proof)
				if rapid.Bool().Draw(t, "hello") {
					err = access.Hello(proof)
				}
				shown = shown || proof == right
				if err == nil && (proof == wrong || shown && proof == none) || err != nil && proof == right {
					t.Fatalf("%s, after it was shown (%t): %v", proof, shown, err)
				}
			case 2:
				if access.HandOut(proof) == nil {
					if handing || written > 0 || shown || access.ByMachine() {
						t.Fatal("it is handed out twice")
					}
					handing = true
				}
			case 3:
				if handing {
					ok := rapid.Bool().Draw(t, "written")
					access.HandedOut(ok)
					handing = false
					if ok {
						written++
					}
				}
			}
		}
	})
}
