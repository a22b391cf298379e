package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// settles checks that what decodes is written as something that decodes to the same.
func settles[T any](f *testing.F, encode func(T) []byte, decode func([]byte) (T, error)) {
	f.Fuzz(func(t *testing.T, data []byte) {
		value, err := decode(data)
		if err != nil {
			if !utf8.ValidString(err.Error()) && utf8.Valid(data) {
				t.Errorf("the error is not UTF-8: %q", err)
			}
			return
		}
		written := encode(value)
		again, err := decode(written)
		if err != nil {
			t.Fatalf("%s is written as %s, which does not decode: %v", data, written, err)
		}
		// Nil and empty are one on the wire.
		if rewritten := encode(again); !bytes.Equal(written, rewritten) {
			t.Errorf("%s is written as %s, and then as %s", data, written, rewritten)
		}
	})
}

func FuzzDecodeAction(f *testing.F) {
	for _, seed := range []string{
		`{"id":"1","type":"none","path":"","command":null,"tty":false}`,
		`{"id":"1","type":"get-artifact","path":"/x","command":[],"tty":true}`,
		`{"id":"1","type":"exec-shell","path":"","command":["sh","\u0000"],"tty":true}`,
		`{"ID":"1","Type":"list-folder","PATH":"\ud800"}`,
		`{"id":"1","type":"kill-process","signal":"TERM"}`,
		`{"id":"1","type":"put-artifact"}`,
		`null`, `[`,
	} {
		f.Add([]byte(seed))
	}
	settles(f, wire.EncodeAction, wire.DecodeAction)
}

func FuzzDecodeExecute(f *testing.F) {
	for _, seed := range []string{
		`{"env":{"A":"1","=":""},"command":["sh","-c","true"]}`, `{"env":null,"command":null}`,
		`{"env":{"A":"\u0000"}}`, `{"command":["\ud800"]}`, `null`, `{"env":{"A":null}}`,
	} {
		f.Add([]byte(seed))
	}
	settles(f, wire.EncodeExecute, wire.DecodeExecute)
}

func FuzzDecodeHello(f *testing.F) {
	for _, seed := range []string{
		`{"version":"2","bootId":"b","os":"linux","arch":"amd64","features":["result","ack"]}`,
		`{"bootId":"b","features":null}`, `{"bootId":""}`, `{"bootId":"` + strings.Repeat("b", 257) + `"}`, `null`,
	} {
		f.Add([]byte(seed))
	}
	settles(f, wire.EncodeHello, wire.DecodeHello)
}

func FuzzDecodeFeatures(f *testing.F) {
	for _, seed := range []string{`{"features":["result","result",""]}`, `{"features":null}`, `{}`, `null`, `{"features":[null]}`} {
		f.Add([]byte(seed))
	}
	settles(f, wire.EncodeFeatures, wire.DecodeFeatures)
}

func FuzzDecodeReport(f *testing.F) {
	for _, seed := range []string{
		`{"exitCode":3,"signal":"","reason":"exited","message":""}`,
		`{"exitCode":4294967296,"reason":"exited"}`, `{"exitCode":-1,"reason":"exited"}`,
		`{"exitCode":1.5,"reason":"exited"}`, `{"exitCode":137,"signal":"SIGKILL","reason":"oom","message":"\u001b[31m"}`,
		`{"reason":"exited","message":"` + strings.Repeat("é😀", 300) + `"}`,
	} {
		f.Add([]byte(seed))
	}
	settles(f, wire.EncodeReport, wire.DecodeReport)
}

func FuzzDecodeError(f *testing.F) {
	f.Add(404, []byte(`{"code":"NoSuchEndPoint","message":"there is none"}`))
	f.Add(500, []byte(`{"code":"\u001b[31m","message":"\u001b[31m"}`))
	f.Add(502, []byte("<html>\x1b]0;title\x07</html>"))
	f.Add(-1, []byte(`{"code":null}`))
	f.Fuzz(func(t *testing.T, status int, data []byte) {
		err := wire.DecodeError(status, data)
		if err == nil {
			t.Fatal("it is no error")
		}
		if text := err.Error(); strings.ContainsFunc(text, control) || len(text) > 16<<10 {
			t.Errorf("it is shown as %q", text)
		}
		refusal, ok := errors.AsType[*domain.Error](err)
		if !ok {
			return
		}
		again, ok := errors.AsType[*domain.Error](wire.DecodeError(status, wire.EncodeError(refusal)))
		if !ok || *again != *refusal {
			t.Errorf("%+v comes back as %+v", refusal, again)
		}
	})
}

func control(c rune) bool { return c < ' ' || c == 0x7f }

func FuzzIsJSON(f *testing.F) {
	for _, seed := range []string{"application/json", "Application/JSON; charset=utf-8", "application/json;", "application/json;;", "text/plain", "", ";", "application/json; a=1; a=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, contentType string) {
		if wire.IsJSON(contentType) && !strings.HasPrefix(strings.ToLower(strings.TrimSpace(contentType)), wire.TypeJSON) {
			t.Errorf("%q is taken for JSON", contentType)
		}
	})
}

func FuzzDecodeFiles(f *testing.F) {
	for _, seed := range []string{
		`{"files":["/a","/b"],"notFound":false}`, `{"files":null,"notFound":true}`, `{"notFound":true}`,
		`{"files":["\ud800\ufffd"],"x":{"files":[1]}}`, `{"files":[],"files":[]}`, `{"x":[[[[[[]]]]]],"files":[""]}`,
		"{\"files\":[\"\xff\"]}", `{"files":[null]}`, `{"Files":["a"],"files":["b"]}`, `{"files":["a"]} `,
		`{"files":["\u0000../../etc/passwd"]}`, strings.Repeat("[", 100), `{"x":` + strings.Repeat("[", 100),
		`{"x":1e999,"files":[]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		names, notFound, err := decode(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, domain.ErrInvalidReply) {
				t.Errorf("the error has no class: %v", err)
			}
			return
		}
		again, _, err := decode(bytes.NewReader(files(names...)))
		if err != nil || !slices.Equal(again, names) {
			t.Errorf("%q comes back as %q, %v", names, again, err)
		}
		// encoding/json takes names of fields in either case, unless the map decides.
		var oracle map[string]json.RawMessage
		if err := json.Unmarshal(data, &oracle); err != nil {
			t.Errorf("encoding/json refuses it: %v", err)
			return
		}
		var wantNames []string
		var wantNotFound bool
		errs := []error{unmarshal(oracle["files"], &wantNames), unmarshal(oracle["notFound"], &wantNotFound)}
		if err := errors.Join(errs...); err != nil {
			t.Errorf("encoding/json refuses it: %v", err)
		}
		if notFound != wantNotFound || len(names)+len(wantNames) > 0 && !reflect.DeepEqual(names, wantNames) {
			t.Errorf("it is %q, %t, by encoding/json %q, %t", names, notFound, wantNames, wantNotFound)
		}
	})
}

func unmarshal(data json.RawMessage, v any) error {
	if data == nil {
		return nil
	}
	return json.Unmarshal(data, v)
}
