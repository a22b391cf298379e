package domain_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

func TestFeaturesThatBothHave(t *testing.T) {
	tests := map[string]struct{ mine, theirs, both domain.Features }{
		"neither":           {nil, nil, nil},
		"only mine":         {domain.Features{"ack"}, nil, nil},
		"only theirs":       {nil, domain.Features{"ack"}, nil},
		"other ones":        {domain.Features{"ack"}, domain.Features{"log", "ACK", ""}, nil},
		"in my order":       {domain.Features{"log", "ack", "put"}, domain.Features{"ack", "tar", "log"}, domain.Features{"log", "ack"}},
		"each of them once": {domain.Features{"ack", "ack"}, domain.Features{"ack", "ack"}, domain.Features{"ack"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := test.mine.Both(test.theirs)
			if diff := cmp.Diff(test.both, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			for _, f := range slices.Concat(test.mine, test.theirs, domain.Features{"other"}) {
				if want := slices.Contains(test.both, f); got.Has(f) != want {
					t.Errorf("Has(%s) is %v", f, !want)
				}
			}
		})
	}
}

func TestHelloCheck(t *testing.T) {
	long := strings.Repeat("x", 256)
	tests := map[string]struct {
		hello domain.Hello
		says  string
	}{
		"the least":         {domain.Hello{BootID: "b"}, ""},
		"the most":          {domain.Hello{Version: long, BootID: long, OS: long, Arch: long, Features: slices.Repeat(domain.Features{domain.Feature(long)}, 64)}, ""},
		"no boot":           {domain.Hello{Version: "1", OS: "linux", Arch: "amd64"}, "bootId is missing"},
		"too many features": {domain.Hello{BootID: "b", Features: make(domain.Features, 65)}, "65 features, the most is 64"},
		"long version":      {domain.Hello{BootID: "b", Version: long + "x"}, "a field of 257 bytes, the most is 256"},
		"long boot":         {domain.Hello{BootID: long + "x"}, "a field of 257 bytes"},
		"long os":           {domain.Hello{BootID: "b", OS: long + "x"}, "a field of 257 bytes"},
		"long arch":         {domain.Hello{BootID: "b", Arch: long + "x"}, "a field of 257 bytes"},
		"long feature":      {domain.Hello{BootID: "b", Features: domain.Features{"ack", domain.Feature(long + "x")}}, "a field of 257 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.hello.Check()
			switch {
			case test.says == "" && err != nil:
				t.Error(err)
			case test.says != "" && !errors.Is(err, domain.ErrInvalidHello):
				t.Errorf("the error is %v", err)
			case test.says != "" && !strings.Contains(err.Error(), test.says):
				t.Errorf("%q does not say %q", err, test.says)
			}
		})
	}
}

func TestHelloIsQuotedInLogs(t *testing.T) {
	bad := "\x1b[2J\u009b"
	hello := domain.Hello{Version: bad, BootID: bad, OS: bad, Arch: bad, Features: domain.Features{domain.Feature(bad)}}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("hello", "guest", hello)
	text := strings.TrimSuffix(out.String(), "\n")
	if i := strings.IndexFunc(text, isControl); i >= 0 {
		t.Errorf("%q has a control character at %d", text, i)
	}
	for _, field := range []string{`"version":"\"\\x1b[2J\\u009b\""`, `"boot":"\"\\x1b[2J\\u009b\""`, `"platform":"\"\\x1b[2J\\u009b/\\x1b[2J\\u009b\""`, `"features":"\"[\\x1b[2J\\u009b]\""`} {
		if !strings.Contains(text, field) {
			t.Errorf("%s does not have %s", text, field)
		}
	}
}
