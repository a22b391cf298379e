package wire_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// text is UTF-8 without NUL: what a path or an argument may hold.
func text(min, max int) *rapid.Generator[string] {
	return rapid.StringOfN(rapid.OneOf(rapid.Rune(), rapid.RuneFrom([]rune("\n\t\x1b\"\\<>&\u2028\u2029\ufffd/ é😀"))), min, max, -1).
		Filter(func(s string) bool { return !strings.Contains(s, "\x00") })
}

var actions = rapid.Custom(func(t *rapid.T) domain.Action {
	id := domain.ActionID(text(1, 40).Draw(t, "id"))
	path := text(1, 200).Draw(t, "path")
	command := rapid.SliceOfN(text(0, 20), 0, 4).Draw(t, "command")
	switch rapid.SampledFrom(domain.Kinds()).Draw(t, "kind") {
	case domain.KindGetArtifact:
		return must(domain.GetArtifact(id, path))
	case domain.KindListFolder:
		return must(domain.ListFolder(id, path))
	case domain.KindExecShell:
		spec := domain.ShellSpec{
			Command: command,
			Dir:     text(0, 20).Draw(t, "dir"),
			User:    text(0, 20).Draw(t, "user"),
			Timeout: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "timeout")) * time.Millisecond,
			NoStdin: rapid.Bool().Draw(t, "no stdin"),
		}
		if rapid.Bool().Draw(t, "tty") {
			spec.TTY = true
			spec.Columns, spec.Rows = rapid.Uint16().Draw(t, "columns"), rapid.Uint16().Draw(t, "rows")
		}
		if rapid.Bool().Draw(t, "env") {
			spec.Env = map[string]string{"NAME": text(0, 20).Draw(t, "value")}
		}
		return must(domain.ExecShell(id, spec))
	case domain.KindKillProcess:
		return must(domain.KillProcess(id))
	}
	return domain.Action{}
})

// comesBack checks that decode is the inverse of encode.
func comesBack[T any](t *rapid.T, value T, encode func(T) []byte, decode func([]byte) (T, error)) {
	data := encode(value)
	got, err := decode(data)
	if err != nil || !reflect.DeepEqual(got, value) {
		t.Fatalf("%+v comes back as %+v, %v, by %s", value, got, err, data)
	}
}

func TestParsingIsTheInverseOfWriting(t *testing.T) {
	t.Run("action", rapid.MakeCheck(func(t *rapid.T) {
		comesBack(t, actions.Draw(t, "action"), wire.EncodeAction, wire.DecodeAction)
	}))
	t.Run("execute", rapid.MakeCheck(func(t *rapid.T) {
		name := text(1, 20).Filter(func(s string) bool { return !strings.Contains(s, "=") })
		comesBack(t, domain.Execute{
			Env:     rapid.MapOf(name, text(0, 40)).Draw(t, "env"),
			Command: append([]string{}, rapid.SliceOf(text(0, 20)).Draw(t, "command")...),
		}, wire.EncodeExecute, wire.DecodeExecute)
	}))
	feature := rapid.Map(text(0, 20), func(s string) domain.Feature { return domain.Feature(s) })
	features := rapid.Map(rapid.SliceOfN(feature, 0, 20), func(fs []domain.Feature) domain.Features {
		return append(domain.Features{}, fs...)
	})
	t.Run("hello", rapid.MakeCheck(func(t *rapid.T) {
		comesBack(t, domain.Hello{
			Version:  text(0, 20).Draw(t, "version"),
			BootID:   text(1, 36).Draw(t, "boot"),
			OS:       text(0, 10).Draw(t, "os"),
			Arch:     text(0, 10).Draw(t, "arch"),
			Features: features.Draw(t, "features"),
		}, wire.EncodeHello, wire.DecodeHello)
	}))
	t.Run("features", rapid.MakeCheck(func(t *rapid.T) {
		comesBack(t, features.Draw(t, "features"), wire.EncodeFeatures, wire.DecodeFeatures)
	}))
	t.Run("report", rapid.MakeCheck(func(t *rapid.T) {
		comesBack(t, domain.Report{
			ExitCode: int(rapid.Uint32().Draw(t, "exit code")),
			Signal:   rapid.SampledFrom([]string{"", "SIGKILL", "SIGRTMIN+15"}).Draw(t, "signal"),
			Reason:   rapid.SampledFrom([]domain.Reason{domain.ReasonExited, domain.ReasonSignaled, domain.ReasonKilled, domain.ReasonTimeout, domain.ReasonStartFailed, domain.ReasonOOM}).Draw(t, "reason"),
			Message:  text(0, 200).Draw(t, "message"),
		}, wire.EncodeReport, wire.DecodeReport)
	}))
	t.Run("error", rapid.MakeCheck(func(t *rapid.T) {
		want := &domain.Error{
			Code:    domain.Code(text(1, 20).Draw(t, "code")),
			Message: text(0, 100).Draw(t, "message"),
		}
		got, ok := errors.AsType[*domain.Error](wire.DecodeError(400, wire.EncodeError(want)))
		if !ok || *got != *want {
			t.Fatalf("%+v comes back as %+v", want, got)
		}
	}))
	t.Run("files", rapid.MakeCheck(func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.String(), 0, 30).Draw(t, "names")
		got, notFound, err := decode(strings.NewReader(string(files(want...))))
		if err != nil || notFound || !slices.Equal(got, want) {
			t.Fatalf("%q come back as %q, %t, %v", want, got, notFound, err)
		}
	}))
}

// A newer host may say more than this guest knows.
func TestFieldsThatNobodyKnowsAreIgnored(t *testing.T) {
	action, err := wire.DecodeAction([]byte(`{"id":"1","type":"get-artifact","path":"/x","command":null,"tty":false,"offset":7,"more":{"type":"none"}}`))
	if err != nil || action.Path() != "/x" {
		t.Errorf("%v, %v", action, err)
	}
	execute, err := wire.DecodeExecute([]byte(`{"command":["a"],"env":{},"cwd":"/"}`))
	if err != nil || len(execute.Command) != 1 {
		t.Errorf("%v, %v", execute, err)
	}
	_, err = wire.DecodeAction([]byte(`{"id":"1","type":"put-artifact","path":"/x"}`))
	if !errors.Is(err, domain.ErrUnknownKind) {
		t.Errorf("an unknown type: %v", err)
	}
}

func TestBodiesThatCannotBe(t *testing.T) {
	for _, body := range []string{"", "x", "[]", `"a"`, `{`, `{"id":1,"type":3,"command":"a","env":[],"features":"a","exitCode":"a","bootId":4,"reason":7}`,
		strings.Repeat("[", 10<<20)} {
		_, action := wire.DecodeAction([]byte(body))
		_, execute := wire.DecodeExecute([]byte(body))
		_, hello := wire.DecodeHello([]byte(body))
		_, features := wire.DecodeFeatures([]byte(body))
		_, report := wire.DecodeReport([]byte(body))
		for what, check := range map[string]struct{ err, class error }{
			"action":   {action, wire.ErrInvalidBody},
			"execute":  {execute, wire.ErrInvalidBody},
			"hello":    {hello, domain.ErrInvalidHello},
			"features": {features, wire.ErrInvalidBody},
			"report":   {report, domain.ErrInvalidReport},
		} {
			if !errors.Is(check.err, check.class) || len(check.err.Error()) > 2000 {
				t.Errorf("%.40q as %s: %.2000v", body, what, check.err)
			}
		}
	}
}

func TestReadAll(t *testing.T) {
	if data, err := wire.ReadAll(strings.NewReader("12345"), 5, "MaxThing"); err != nil || string(data) != "12345" {
		t.Errorf("at the limit: %q, %v", data, err)
	}
	_, err := wire.ReadAll(strings.NewReader("123456"), 5, "MaxThing")
	if limit, ok := errors.AsType[*domain.LimitError](err); !ok || limit.Limit != "MaxThing" || limit.Max != 5 {
		t.Errorf("above the limit: %v", err)
	}
	own := errors.New("my own")
	if _, err := wire.ReadAll(iotest.ErrReader(own), 5, "MaxThing"); err != own {
		t.Errorf("the reader's error: %v", err)
	}
	large := &endless{fill: 'x'}
	if _, err := wire.ReadAll(large, 5, "MaxThing"); err == nil || large.read > 1024 {
		t.Errorf("of an endless body %d bytes were read: %v", large.read, err)
	}
}
