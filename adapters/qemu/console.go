package qemu

import (
	"io"
	"strings"
	"sync"
)

// maxWords is how much of what was said is kept for errors.
const maxWords = 4 << 10

// words keeps the end of what was said.
type words struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

// Write implements io.Writer.
func (w *words) Write(more []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, more...)
	if len(w.text) > maxWords {
		w.text = append(w.text[:0], w.text[len(w.text)-maxWords:]...)
	}
	return len(more), nil
}

// String is whole lines, if more than one was said.
func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := string(w.text)
	if len(w.text) == maxWords {
		if _, rest, found := strings.Cut(text, "\n"); found {
			text = rest
		}
	}
	return strings.TrimSpace(strings.ReplaceAll(text, "\r", ""))
}

// listen copies what a console or QEMU itself says, to its end, into the words and, as far as it may get,
// into a log. A guest that talks without end doesn't fill the host's disk.
func listen(from io.Reader, words *words, log io.Writer, most int64) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		_, _ = words.Write(buffer[:n])
		if log != nil {
			keep := min(int64(n), most)
			most -= keep
			if _, failed := log.Write(buffer[:keep]); failed != nil {
				log = nil // it is a help, and no more
			} else if most == 0 {
				_, _ = io.WriteString(log, "\n[the console goes on, and this log doesn't]\n")
				log = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// ends are what a kernel says last, and what that means.
var ends = []struct{ says, means string }{
	{"Kernel panic - not syncing: Out of memory", "the guest ran out of memory"},
	{"Kernel panic - not syncing", "the guest's kernel panicked"},
	{"reboot: Restarting system", "the guest rebooted"},
	{"reboot: Power down", "the guest was powered off"},
}

// cause is what a console's last words tell about why the guest ended. It is the guest's own word, good
// for a message and nothing else.
func cause(console string) string {
	for _, end := range ends {
		if strings.Contains(console, end.says) {
			return end.means
		}
	}
	return "the guest's machine ended"
}
