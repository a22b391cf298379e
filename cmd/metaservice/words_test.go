package main

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
)

func TestWords(t *testing.T) {
	say := func(words *slog.Logger) {
		words.Debug("an action", "action", "x")
		words.Info("hello")
		words.Warn("slow", "try", 2, "error", errors.New("one\ntwo"))
		words.With("guest", "g").WithGroup("group").Error("lost")
		words.Error("\x1b[2Jgone\u202e", slog.Group("at", "line", "1\x00"))
	}
	const loud = "metaservice: warning: slow, try 2: one; two\n" +
		"metaservice: lost, guest g\n" +
		`metaservice: \x1b[2Jgone\u202e, line 1\x00` + "\n"
	for _, test := range []struct {
		verbose bool
		want    string
	}{
		{false, loud},
		{true, "metaservice: debug: an action, action x\nmetaservice: hello\n" + loud},
	} {
		var out bytes.Buffer
		say(newWords(&out, test.verbose))
		if out.String() != test.want {
			t.Errorf("verbose %v: it says\n%s, not\n%s", test.verbose, out.String(), test.want)
		}
	}
}
