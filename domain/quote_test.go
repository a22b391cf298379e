package domain_test

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hexworker/metaservice/domain"
)

// isControl tells the control characters, those of Latin 1 too: terminals obey both.
func isControl(c rune) bool { return c < ' ' || c >= 0x7f && c <= 0x9f }

func TestQuote(t *testing.T) {
	x := strings.Repeat("x", 1023)
	tests := map[string]struct{ text, want string }{
		"empty":                  {"", `""`},
		"plain":                  {"/tmp/ünï", `"/tmp/ünï"`},
		"quotes":                 {`a"b\c`, `"a\"b\\c"`},
		"control characters":     {"\x00\a\x1b[2J\r\n\x7f", `"\x00\a\x1b[2J\r\n\x7f"`},
		"of Latin 1":             {"\u009b31m", `"\u009b31m"`},
		"that turn text around":  {"a\u202eb", `"a\u202eb"`},
		"ends of a line":         {"a\u2028b", `"a\u2028b"`},
		"odd spaces":             {"a\u00a0\u2003b", `"a\u00a0\u2003b"`},
		"invalid UTF-8":          {"a\xff\xc3b", `"a\xff\xc3b"`},
		"the longest":            {x + "y", `"` + x + `y"`},
		"one too long":           {x + "yz", `"` + x + `y…"`},
		"cut before a rune":      {x + "é", `"` + x + `…"`},
		"cut after a rune":       {x[1:] + "éz", `"` + x[1:] + `é…"`},
		"cut before a long rune": {x[2:] + "\U0001f600z", `"` + x[2:] + `…"`},
		"only continuations":     {strings.Repeat("\x80", 2000), `"` + strings.Repeat(`\x80`, 1020) + `…"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := domain.Quote(test.text); got != test.want {
				t.Errorf("%q became %s, not %s", test.text, got, test.want)
			}
			if got := strconv.Quote(domain.Cut(test.text)); got != test.want {
				t.Errorf("cut, it is %s, not %s", got, test.want)
			}
		})
	}
}

func FuzzQuote(f *testing.F) {
	for _, seed := range []string{"", "plain", "\x1b[31m\n", "\xff\xfe", "\u202e\u0085\U000e0001", strings.Repeat("\x00", 3000), strings.Repeat("é", 513), strings.Repeat("x", 1023) + "\U0001f600"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := domain.Quote(text)
		if !utf8.ValidString(got) {
			t.Fatalf("%q is not UTF-8", got)
		}
		if i := strings.IndexFunc(got, isControl); i >= 0 {
			t.Fatalf("%q has a control character at %d", got, i)
		}
		if most := 4*1024 + len(`"…"`); len(got) > most {
			t.Fatalf("%d bytes, more than %d", len(got), most)
		}
		back, err := strconv.Unquote(got)
		if err != nil {
			t.Fatalf("%s can't be read back: %v", got, err)
		}
		if back == text && len(text) <= 1024 {
			return
		}
		if kept, cut := strings.CutSuffix(back, "…"); !cut || len(text) <= 1024 || len(kept) < 1020 || len(kept) > 1024 || !strings.HasPrefix(text, kept) {
			t.Fatalf("%q is neither the text %q nor its beginning", back, text)
		}
	})
}
