//go:build linux

package threats

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

func init() {
	register("lists", lists)
	register("nested", nested)
}

// bodies are the lists that a guest may answer with, in pieces of so many times a text.
var bodies = map[string]func(r *raid, w io.Writer){
	"empty names": func(r *raid, w io.Writer) {
		fmt.Fprint(w, `{"files":[""`)
		repeat(w, `,""`, r.number("bytes")/3)
		fmt.Fprint(w, `],"notFound":false}`)
	},
	"unknown fields": func(r *raid, w io.Writer) {
		fmt.Fprint(w, `{`)
		for n := range r.number("bytes") / 16 {
			fmt.Fprintf(w, `"%09d":[],`, n)
		}
		fmt.Fprint(w, `"files":[]}`)
	},
	"one name": func(r *raid, w io.Writer) {
		fmt.Fprint(w, `{"files":["`)
		repeat(w, "name", r.number("bytes")/4)
		fmt.Fprint(w, `"]}`)
	},
	"spaces": func(r *raid, w io.Writer) {
		repeat(w, " ", r.number("bytes"))
		fmt.Fprint(w, `{"files":[]}`)
	},
	"deep": func(r *raid, w io.Writer) { repeat(w, "[", r.number("bytes")) },
	"deep in an unknown field": func(r *raid, w io.Writer) {
		fmt.Fprint(w, `{"x":`)
		repeat(w, `[{"x":`, r.number("bytes")/6)
	},
	"deep in files": func(r *raid, w io.Writer) {
		fmt.Fprint(w, `{"files":`)
		repeat(w, "[", r.number("bytes"))
	},
	"real paths": func(r *raid, w io.Writer) {
		fmt.Fprint(w, `{"files":[`)
		for n := range r.number("paths") {
			if n > 0 {
				fmt.Fprint(w, ",")
			}
			fmt.Fprintf(w, `"/folder/usr/share/doc/package-%06d/%04d/changelog.gz"`, n/100, n)
		}
		fmt.Fprint(w, `],"notFound":false}`)
	},
}

func repeat(w io.Writer, text string, times int) {
	many := []byte(strings.Repeat(text, 4096))
	for ; times >= 4096; times -= 4096 {
		if _, err := w.Write(many); err != nil {
			return
		}
	}
	w.Write(many[:times*len(text)])
}

// lists answers each list-folder with the body that it is told, chunked, until it is told to stop.
func lists(r *raid) error {
	for {
		action, err := r.poll()
		if r.over() {
			return nil
		}
		if err != nil {
			return err
		}
		r.count(action.Type, 1)
		conn, err := r.dial()
		if err != nil {
			return err
		}
		fmt.Fprintf(conn, "%sContent-Type: application/json\r\n%s", reply(action.ID), chunked)
		w := bufio.NewWriterSize(chunkWriter{conn}, 256<<10)
		bodies[r.Args["body"]](r, w)
		w.Flush()
		fmt.Fprint(conn, "0\r\n\r\n")
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		answer, err := readAnswer(bufio.NewReader(conn))
		conn.Close()
		if err != nil { // its answer was lost with what the host did not read
			r.count("no answer", 1)
			continue
		}
		r.count(fmt.Sprint(answer.status), 1)
	}
}

// chunkWriter makes a chunk of each Write.
type chunkWriter struct{ w io.Writer }

func (c chunkWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	_, err := c.w.Write(slices.Concat(fmt.Appendf(nil, "%x\r\n", len(p)), p, []byte("\r\n")))
	return len(p), err
}

// listed has a host list a folder that an attacker invents, and measures it.
func listed(t *testing.T, limits metaservice.Limits, args map[string]string) (l Listed, tally Tally, peak int64, cpu time.Duration) {
	t.Helper()
	h := startHost(t, HostSpec{Limits: limits})
	a := attack(t, h, "lists", args)
	var base int64
	h.call(t, "Watch", struct{}{}, &base)
	before := h.usage(t)
	l = within(t, patience(), "the list", h.list(t, "/folder"))
	after := h.usage(t)
	tally = a.stop(t)
	peak, cpu = after.Peak-base, after.CPU-before.CPU
	t.Logf("%d names, refused %d, %q; %d KiB at its peak, %s of processor time, %s; the guest: %v", l.Count, l.Refused, l.Text, peak>>10, cpu, l.Took, tally.Counts)
	return l, tally, peak, cpu
}

// Threat 5. 10 MiB of JSON became 200 MiB of memory, three times over. It is read as it comes, and at
// the limit no further; the limit is told once.
func TestThreat05GiantJSON(t *testing.T) {
	t.Parallel()
	size := often(4<<20, 10<<20)
	for body, test := range map[string]struct {
		limits metaservice.Limits
		limit  string
		is     error
		count  int
	}{
		"empty names":    {limits: metaservice.Limits{ListEntries: 100_000}, limit: "ListEntries"},
		"unknown fields": {},
		"one name":       {is: domain.ErrInvalidReply},
		"spaces":         {is: domain.ErrInvalidReply},
	} {
		for _, limits := range []metaservice.Limits{test.limits, {ListBytes: 512 << 10, Tries: 2}} {
			limit := test.limit
			if limits.ListBytes > 0 && test.is == nil {
				limit = "ListBytes"
			}
			t.Run(fmt.Sprint(body, ", ", limits.ListBytes), func(t *testing.T) {
				t.Parallel()
				l, tally, peak, _ := listed(t, limits, map[string]string{"body": body, "bytes": fmt.Sprint(size)})
				if l.Limit != limit || test.is != nil && !l.is(test.is) || (limit != "" || test.is != nil) != l.failed() {
					t.Errorf("the caller is told %q", l.Text)
				}
				if limit != "" && (tally.Counts["list-folder"] != 1 || strings.Count(l.Text, limit) != 1) {
					t.Errorf("it was asked %d times, and told %q", tally.Counts["list-folder"], l.Text)
				}
				// The ancestor's took twenty times their size.
				if peak > int64(size)*16/10 {
					t.Errorf("it took %d KiB", peak>>10)
				}
			})
		}
	}
}

// nested sends JSON that is nested ever deeper to whatever decodes it besides lists.
func nested(r *raid) error {
	for _, target := range []string{"POST " + wire.PathHello, "PUT " + wire.PathSuccess} {
		for _, text := range []string{"[", `{"x":`, `{"features":[`} {
			body := strings.Repeat(text, r.number("bytes")/len(text))
			answer, err := r.ask(fmt.Appendf(nil, "%s HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\nContent-Type: application/json\r\n%s%s", target, sized(int64(len(body))), body))
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				return err
			}
			r.count(fmt.Sprintf("%s %d", path.Base(target), answer.status), 1)
		}
	}
	return nil
}

// Threat 6. What is nested a million deep is refused before it takes a stack or a heap of that depth. The
// decoder is fuzzed in adapters/wire, 50,000 inputs for each change and ten million in `make soak`.
func TestThreat06DeepNesting(t *testing.T) {
	t.Parallel()
	const size = 10 << 20
	for _, body := range []string{"deep", "deep in an unknown field", "deep in files"} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			l, tally, peak, _ := listed(t, metaservice.Limits{}, map[string]string{"body": body, "bytes": fmt.Sprint(size)})
			if !l.is(domain.ErrInvalidReply) || tally.Counts["list-folder"] != 3 {
				t.Errorf("it was asked %d times, and told %q", tally.Counts["list-folder"], l.Text)
			}
			if peak > 16<<20 {
				t.Errorf("it took %d KiB", peak>>10)
			}
		})
	}
	t.Run("hello and result", func(t *testing.T) {
		t.Parallel()
		h := startHost(t, HostSpec{})
		var base int64
		h.call(t, "Watch", struct{}{}, &base)
		small := attack(t, h, "nested", map[string]string{"bytes": "60000"}).wait(t)
		large := attack(t, h, "nested", map[string]string{"bytes": fmt.Sprint(size)}).wait(t)
		if small.Counts["hello 400"] != 3 || large.Counts["hello 413"]+large.Counts["hello 0"] != 3 {
			t.Errorf("hello got %v and %v", small.Counts, large.Counts)
		}
		if peak := h.usage(t).Peak - base; peak > 8<<20 {
			t.Errorf("it took %d KiB", peak>>10)
		}
		if tally := attack(t, h, "one ping", nil).wait(t); tally.Counts["status"] != http.StatusOK {
			t.Errorf("then a ping got %d", tally.Counts["status"])
		}
	})
}

// Threat 7. A million paths, 57 MiB of them, are a list like any other: they come, or the limit is told.
func TestThreat07AMillionRealPaths(t *testing.T) {
	t.Parallel()
	paths := often(100_000, 1_000_000)
	args := map[string]string{"body": "real paths", "paths": fmt.Sprint(paths)}
	t.Run("they come", func(t *testing.T) {
		t.Parallel()
		l, tally, peak, cpu := listed(t, metaservice.Limits{}, args)
		if l.failed() || l.Count != paths || l.Refused > 0 || tally.Counts["list-folder"] != 1 || tally.Counts["200"] != 1 {
			t.Errorf("%d names, refused %d, %q, %v", l.Count, l.Refused, l.Text, tally.Counts)
		}
		// 200 bytes for each: a path, its relative name, and their places in a list and a table.
		if most := int64(paths)*300 + 16<<20; peak > most {
			t.Errorf("it took %d KiB, %d at most", peak>>10, most>>10)
		}
		// The figure is 2 s for a million; of the machine's own time, whatever else runs on it.
		most := max(2*time.Second*time.Duration(paths)/1_000_000, 500*time.Millisecond)
		if raceDetector {
			most *= 10
		}
		if cpu > most {
			t.Errorf("it took %s, %s at most", cpu, most)
		}
	})
	for limit, limits := range map[string]metaservice.Limits{"ListEntries": {ListEntries: int64(paths) - 1}, "ListBytes": {ListBytes: 1 << 20}} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			l, tally, _, _ := listed(t, limits, args)
			if l.Limit != limit || tally.Counts["list-folder"] != 1 || l.Count > 0 {
				t.Errorf("it was asked %d times and told %q", tally.Counts["list-folder"], l.Text)
			}
		})
	}
}
