package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/hexworker/metaservice/app/host"
)

// meter shows how far an artifact has come, where somebody watches: on a terminal.
type meter struct {
	to    io.Writer // nil where nobody does
	name  string
	bar   *progressbar.ProgressBar
	files bool // it counts files, not bytes
}

const maxName = 30

func newMeter(to *outlet, name string) *meter {
	m := &meter{name: plain(name)}
	if letters := []rune(m.name); len(letters) > maxName { // the line must not wrap
		m.name = "…" + string(letters[len(letters)-maxName:])
	}
	if file, ok := to.to.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		m.to = to
	}
	return m
}

// show is a host.Progress function.
func (m *meter) show(p host.Progress) {
	if m.to == nil {
		return
	}
	if m.bar == nil || p.Total > 0 && !m.files {
		m.start(p)
	}
	m.bar.Describe(m.label(p))
	if m.files {
		m.bar.Set(p.Files)
		return
	}
	m.bar.Set64(p.Bytes)
}

// label is the name, and what the bar doesn't count: bytes where it counts files, and files of a folder that
// comes in one stream, of which nobody knows how many there are.
func (m *meter) label(p host.Progress) string {
	switch {
	case m.files:
		return m.name + ", " + amountOf(p.Bytes)
	case p.Files > 0 && p.Expect < 0:
		return m.name + ", " + filesOf(p.Files)
	}
	return m.name
}

func (m *meter) start(p host.Progress) {
	options := []progressbar.Option{
		progressbar.OptionSetWriter(m.to),
		progressbar.OptionSetDescription(m.name),
		progressbar.OptionSetWidth(20),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionShowCount(),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetSpinnerChangeInterval(0), // no goroutine of its own
	}
	m.files = p.Total > 0
	if m.files {
		m.bar = progressbar.NewOptions(p.Total, options...)
		return
	}
	options = append(options, progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true))
	m.bar = progressbar.NewOptions64(p.Expect, options...)
}

// end takes the bar off the terminal.
func (m *meter) end() {
	if m.bar != nil {
		m.bar.Clear()
		m.bar.Exit()
	}
}

// amount says how much was fetched.
func amount(files int, bytes int64) string {
	return filesOf(files) + ", " + amountOf(bytes)
}

func filesOf(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

func amountOf(bytes int64) string { return humanize.IBytes(uint64(max(bytes, 0))) }
