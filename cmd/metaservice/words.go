package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// words is a slog.Handler for people: one plain line a record on standard error, without times.
type words struct {
	level slog.Level
	attrs string // of loggers that were made with some

	mu *sync.Mutex // guards to
	to io.Writer
}

// newWords says warnings and errors, and everything if it is to be verbose.
func newWords(to io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(&words{level: level, mu: new(sync.Mutex), to: to})
}

// Enabled implements slog.Handler.
func (w *words) Enabled(_ context.Context, level slog.Level) bool { return level >= w.level }

// Handle implements slog.Handler.
func (w *words) Handle(_ context.Context, record slog.Record) error {
	var line strings.Builder
	line.WriteString("metaservice: ")
	switch {
	case record.Level >= slog.LevelError:
	case record.Level >= slog.LevelWarn:
		line.WriteString("warning: ")
	case record.Level < slog.LevelInfo:
		line.WriteString("debug: ")
	}
	line.WriteString(plain(record.Message))
	line.WriteString(w.attrs)
	record.Attrs(func(attr slog.Attr) bool {
		line.WriteString(told(attr))
		return true
	})
	line.WriteByte('\n')
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := io.WriteString(w.to, line.String())
	return err
}

// WithAttrs implements slog.Handler.
func (w *words) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *w
	for _, attr := range attrs {
		with.attrs += told(attr)
	}
	return &with
}

// WithGroup implements slog.Handler. People need no groups.
func (w *words) WithGroup(string) slog.Handler { return w }

// told is an attribute in words: an error speaks for itself, the rest is named.
func told(attr slog.Attr) string {
	value := attr.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		var all strings.Builder
		for _, inner := range value.Group() {
			all.WriteString(told(inner))
		}
		return all.String()
	}
	text := plain(value.String())
	if attr.Key == "error" {
		return ": " + text
	}
	return fmt.Sprintf(", %s %s", attr.Key, text)
}

// plain makes text fit one line, and keeps what a guest may have put into it from the terminal.
func plain(text string) string {
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
	if !strings.ContainsFunc(text, isHidden) {
		return text
	}
	var safe strings.Builder
	for _, c := range text {
		if !isHidden(c) {
			safe.WriteRune(c)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(c)
		safe.WriteString(quoted[1 : len(quoted)-1])
	}
	return safe.String()
}

func isHidden(c rune) bool { return !unicode.IsGraphic(c) }
