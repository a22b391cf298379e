package wire_test

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// decode reads a list whole.
func decode(r io.Reader) (names []string, notFound bool, err error) {
	notFound, err = wire.DecodeFiles(r, func(name string) error {
		names = append(names, name)
		return nil
	})
	return names, notFound, err
}

func TestDecodeFiles(t *testing.T) {
	for body, want := range map[string]struct {
		names    []string
		notFound bool
	}{
		`{"files":[],"notFound":false}`:                   {},
		`{"files":["/a","/b"],"notFound":false}`:          {names: []string{"/a", "/b"}},
		`{"notFound":false,"files":["/a"]}`:               {names: []string{"/a"}},
		`{"files":["/a"]}`:                                {names: []string{"/a"}},
		`{"files":null,"notFound":false}`:                 {}, // as old guests tell an empty folder
		`{"files":null,"notFound":true}`:                  {notFound: true},
		`{"files":[],"notFound":true}`:                    {notFound: true},
		`{"notFound":true}`:                               {notFound: true},
		`{"notFound":true,"notFound":false,"files":[]}`:   {},
		" \r\n\t{ \"files\" : [ \"/a\" , \"/b\" ] }\n\n ": {names: []string{"/a", "/b"}},
		`{"files":["/\u00e9\n\"\\\/\ud83d\ude00"]}`:       {names: []string{"/é\n\"\\/😀"}},
		`{"f\u0069les":["/a"]}`:                           {names: []string{"/a"}},
		`{"new":{"files":["/no"],"a":[[1,2.5e3,null,true],{}]},"files":["/a"],"z":"z","y":-1}`: {names: []string{"/a"}},
		`{"x":1,"x":2,"files":["/a","/a",""]}`:                                                 {names: []string{"/a", "/a", ""}},
		"{\"files\":[\"/\xff\xfe\"]}":                                                          {names: []string{"/\ufffd\ufffd"}},
		`{"files":["/\ud800"]}`:                                                                {names: []string{"/\ufffd"}},
	} {
		for name, r := range map[string]io.Reader{
			"whole":        strings.NewReader(body),
			"byte by byte": iotest.OneByteReader(strings.NewReader(body)),
			"with the end": iotest.DataErrReader(strings.NewReader(body)),
		} {
			names, notFound, err := decode(r)
			if err != nil || notFound != want.notFound || !slices.Equal(names, want.names) {
				t.Errorf("%s, %s: %q, %t, %v", body, name, names, notFound, err)
			}
		}
	}
}

func TestDecodeFilesRefuses(t *testing.T) {
	deep := strings.Repeat("[", 10<<20)
	for body, says := range map[string]string{
		"":                                    "unexpected EOF",
		"null":                                "must be an object",
		"[]":                                  "must be an object",
		`"files"`:                             "must be an object",
		"{}":                                  `"files" is missing`,
		`{"notFound":false}`:                  `"files" is missing`,
		`{"Files":[]}`:                        `"files" is missing`,
		`{"files":[],"files":[]}`:             "twice",
		`{"files":null,"files":["/a"]}`:       "twice",
		`{"files":{}}`:                        "must be an array",
		`{"files":"/a"}`:                      "must be an array",
		`{"files":false}`:                     "must be an array",
		`{"files":[1]}`:                       "must hold strings",
		`{"files":[null]}`:                    "must hold strings",
		`{"files":[["/a"]]}`:                  "must hold strings",
		`{"files":[{"path":"/a"}]}`:           "must hold strings",
		`{"files":[],"notFound":null}`:        "must be true or false",
		`{"files":[],"notFound":"false"}`:     "must be true or false",
		`{"files":[],"notFound":0}`:           "must be true or false",
		`{"files":[]} {}`:                     "more follows",
		`{"files":[]}x`:                       "byte",
		`{"files":["/a"`:                      "unexpected EOF",
		`{"files":["/a`:                       "unexpected EOF",
		`{"files":["/a"],`:                    "unexpected EOF",
		`{"files":["/a",]}`:                   "byte",
		`{"files":["\x"]}`:                    "byte",
		"{\"files\":[\"\x01\"]}":              "byte",
		`{"x":` + deep:                        "nested more than 32 deep",
		`{"files":` + deep:                    "must hold strings",
		deep:                                  "must be an object",
		`{"x":` + strings.Repeat(`{"x":`, 40): "nested more than 32 deep",
	} {
		for name, r := range map[string]io.Reader{
			"whole":        strings.NewReader(body),
			"with the end": iotest.DataErrReader(strings.NewReader(body)),
		} {
			_, _, err := decode(r)
			if !errors.Is(err, domain.ErrInvalidReply) || !strings.Contains(err.Error(), says) {
				t.Errorf("%.60s, %s: %v, want one that says %q", body, name, err, says)
			}
		}
	}
}

// What broke off is told from what was wrong: the caller's limits, and the way to the guest, have
// errors of their own, and each is handled otherwise.
func TestDecodeFilesKeepsItsReadersErrors(t *testing.T) {
	own := errors.New("my own")
	for _, body := range []string{"", "{", `{"files":["/a`, `{"files":["/a"`, `{"files":["/a"]}`, `{"x":[`, `{"x":12`} {
		for name, r := range map[string]io.Reader{
			"after the data": io.MultiReader(strings.NewReader(body), iotest.ErrReader(own)),
			"with the data":  &dataAndError{body, own},
		} {
			if _, _, err := decode(r); err != own {
				t.Errorf("%s, %s: %v", body, name, err)
			}
		}
	}
}

type dataAndError struct {
	data string
	err  error
}

func (d *dataAndError) Read(p []byte) (int, error) {
	n := copy(p, d.data)
	d.data = d.data[n:]
	if d.data == "" {
		return n, d.err
	}
	return n, nil
}

func TestDecodeFilesReturnsAddsError(t *testing.T) {
	own := errors.New("my own")
	calls := 0
	_, err := wire.DecodeFiles(strings.NewReader(`{"files":["/a","/b","/c"]}`), func(string) error {
		calls++
		if calls == 2 {
			return own
		}
		return nil
	})
	if err != own || calls != 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// endless counts what is read of it.
type endless struct {
	head string
	fill byte
	read int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.head)
	e.head = e.head[n:]
	if n == 0 {
		for n = range p {
			p[n] = e.fill
		}
		n = len(p)
	}
	e.read += n
	return n, nil
}

// A parser must see a token's end before it can tell it: one without an end must not fill the memory.
func TestDecodeFilesRefusesAnEndlessToken(t *testing.T) {
	for name, r := range map[string]*endless{
		"name":       {head: `{"files":["/a","`, fill: 'x'},
		"field":      {head: `{"`, fill: 'x'},
		"number":     {head: `{"x":1`, fill: '1'},
		"white":      {head: `{"files":["/a"`, fill: ' '},
		"skipped":    {head: `{"x":{"y":"`, fill: 'x'},
		"after":      {head: `{"files":[]}`, fill: ' '},
		"escaped":    {head: `{"files":["`, fill: '\\'},
		"at the top": {fill: ' '},
	} {
		_, _, err := decode(r)
		if !errors.Is(err, domain.ErrInvalidReply) {
			t.Errorf("%s: %v", name, err)
		}
		if r.read > wire.MaxToken+256<<10 {
			t.Errorf("%s: %d bytes were read", name, r.read)
		}
	}
}

// The longest path that there is gets through, in the longest way to write it.
func TestDecodeFilesTakesTheLongestPath(t *testing.T) {
	body := `{"files":["` + strings.Repeat(`\u0041`, domain.MaxPath) + `"]}`
	names, _, err := decode(strings.NewReader(body))
	if err != nil || len(names) != 1 || names[0] != strings.Repeat("A", domain.MaxPath) {
		t.Errorf("%d names, %v", len(names), err)
	}
}

// Half a list never looks like a whole one.
func TestEncodeFilesStopsAtTheFirstError(t *testing.T) {
	own := errors.New("my own")
	for _, found := range []int{0, 1, 20_000} {
		var buf bytes.Buffer
		err := wire.EncodeFiles(&buf, failing(found, own))
		if err != own {
			t.Errorf("after %d names: %v", found, err)
		}
		if _, _, err := decode(&buf); err == nil {
			t.Errorf("after %d names what was written is a list", found)
		}
	}
	if err := wire.EncodeFiles(refusing{own}, sequence([]string{"/a"})); err != own {
		t.Errorf("the writer's error: %v", err)
	}
	endlessly := func(yield func(string, error) bool) {
		for yield("/a", nil) {
		}
	}
	if err := wire.EncodeFiles(refusing{own}, endlessly); err != own {
		t.Errorf("the writer's error amid names: %v", err)
	}
}

func failing(found int, err error) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for range found {
			if !yield("/name", nil) {
				return
			}
		}
		yield("", err)
	}
}

type refusing struct{ err error }

func (r refusing) Write([]byte) (int, error) { return 0, r.err }
