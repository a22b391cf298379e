//go:build linux

package threats

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/wire"
)

func init() {
	register("header flood", headerFlood)
	register("endless log", endlessLog)
}

// headerFlood opens connections and sends as many bytes of a header that never ends on each, as far as
// the host takes them. It holds all of them until the end, and never reads.
func headerFlood(r *raid) error {
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	head := []byte("GET /engine/v1/ping HTTP/1.1\r\nHost: 169.254.169.254\r\n")
	for n := 0; len(head) < r.number("bytes"); n++ {
		head = fmt.Appendf(head, "X-%d: %s\r\n", n, strings.Repeat("x", 1000))
	}
	head = head[:r.number("bytes")]
	for range r.number("connections") {
		conn, err := r.dial()
		if err != nil {
			return err
		}
		conns = append(conns, conn)
	}
	var all sync.WaitGroup
	for _, conn := range conns {
		all.Go(func() {
			conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
			n, _ := conn.Write(head)
			r.count("written", int64(n))
		})
	}
	all.Wait()
	r.say("ready")
	<-r.ctx.Done()
	return nil
}

// Threat 3. A megabyte of headers without an end stayed in memory for as long as its connection did. Of
// 16 KiB and more the host takes no further byte; less it holds for 5 s, of no more connections than it lets in.
func TestThreat03HeaderFlood(t *testing.T) {
	t.Parallel()
	const (
		connections = 200
		most        = httpserver.Unclaimed + 2 // open: one waits to be let in, and one may be on its way out
	)
	for name, bytes := range map[string]int{"a megabyte": 1 << 20, "just below the limit": 15 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHost(t, HostSpec{})
			attack(t, h, "one ping", nil).wait(t)
			before := h.usage(t)
			a := attack(t, h, "header flood", map[string]string{"connections": fmt.Sprint(connections), "bytes": fmt.Sprint(bytes)})
			a.hears(t, "ready")
			during := h.usage(t)
			a.stop(t)
			added, read := during.Heap-before.Heap, during.Read-before.Read
			accepted := during.Accepted - before.Accepted
			t.Logf("of %d connections %d were accepted and %d are open; they add %d KiB, and %d bytes of each were read", connections, accepted, during.Open, added>>10, read/accepted)
			if during.Open > most {
				t.Errorf("%d connections are open", during.Open)
			}
			if added > 4<<20 {
				t.Errorf("they add %d KiB", added>>10)
			}
			if most := accepted * (16<<10 + 8<<10); read > most || accepted < 16 {
				t.Errorf("%d bytes were read of %d connections, %d at most", read, accepted, most)
			}
			eventually(t, "all of it is closed", func() error {
				if now := h.usage(t); now.Open > before.Open || now.FDs > before.FDs {
					return fmt.Errorf("%d connections and %d descriptors, before %d and %d", now.Open, now.FDs, before.Open, before.FDs)
				}
				return nil
			})
		})
	}
}

// endlessLog posts a log in chunks of so many bytes until it is told to stop; then it ends the body as it
// should be, and the task with success. Without a size it holds an empty log open.
func endlessLog(r *raid) error {
	conn, err := r.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n%s", wire.PathLog, chunked)
	size := r.number("chunk")
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", size, strings.Repeat("x", size))
	many := bytes.Repeat(chunk, 1+(64<<10)/len(chunk))
	for !r.over() {
		if size == 0 {
			<-r.ctx.Done()
			break
		}
		if _, err := conn.Write(many); err != nil {
			return err
		}
		r.count("sent", int64(size*(len(many)/len(chunk))))
	}
	fmt.Fprint(conn, "0\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	answer, err := io.ReadAll(conn)
	r.text("answer", string(answer))
	if err != nil {
		return err
	}
	done, err := r.ask([]byte("PUT " + wire.PathSuccess + " HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\n\r\n"))
	r.count("result", int64(done.status))
	return err
}

// Threat 4. A log without an end filled the host's disk, and what was not kept was read as fast as it came,
// for as long as it came.
func TestThreat04EndlessLog(t *testing.T) {
	t.Parallel()
	const (
		limit = 256 << 10
		lasts = 2 * time.Second
	)
	measure := func(t *testing.T, chunk int) (cpu time.Duration, read int64) {
		h := startHost(t, HostSpec{Limits: metaservice.Limits{LogBytes: limit}})
		sink := filepath.Join(h.folder, fmt.Sprintf(guestsLogs, 0))
		a := attack(t, h, "endless log", map[string]string{"chunk": fmt.Sprint(chunk)})
		if chunk > 0 {
			eventually(t, "the limit is reached", func() error {
				if info, err := os.Stat(sink); err != nil || info.Size() < limit {
					return fmt.Errorf("%d bytes, %v", info.Size(), err)
				}
				return nil
			})
		}
		before := h.usage(t)
		begun := time.Now()
		<-time.After(lasts)
		after := h.usage(t)
		took := time.Since(begun)
		// A busy machine makes it longer, not more.
		cpu = time.Duration(float64(after.CPU-before.CPU) * float64(lasts) / float64(took))
		read = int64(float64(after.Read-before.Read) * float64(lasts) / float64(took))
		tally := a.stop(t)
		if chunk == 0 {
			return cpu, read
		}
		if !strings.HasPrefix(tally.Texts["answer"], "HTTP/1.1 200 OK\r\n") || tally.Counts["result"] != http.StatusOK {
			t.Errorf("the log got %q, the result %d", tally.Texts["answer"], tally.Counts["result"])
		}
		var ended Ended
		h.call(t, "Outcome", Ask{}, &ended)
		if !ended.Succeeded || ended.Bytes != limit || ended.Bytes+ended.Cut != tally.Counts["sent"] {
			t.Errorf("of %d bytes, the outcome is %+v", tally.Counts["sent"], ended)
		}
		if info, err := os.Stat(sink); err != nil || info.Size() != limit {
			t.Errorf("on disk are %d bytes, %v", info.Size(), err)
		}
		return cpu, read
	}
	chunks := []int{0, 1 << 20, 32 << 10, 1}
	cpu, read := make([]time.Duration, len(chunks)), make([]int64, len(chunks))
	t.Run("at once", func(t *testing.T) {
		for i, chunk := range chunks {
			t.Run(fmt.Sprint("chunks of ", chunk), func(t *testing.T) {
				t.Parallel()
				cpu[i], read[i] = measure(t, chunk)
			})
		}
	})
	for i, chunk := range chunks[1:] {
		cost, read := cpu[i+1]-cpu[0], read[i+1]
		t.Logf("chunks of %d bytes: %d KiB/s were read for %.2f %% of a core", chunk, read>>10/int64(lasts/time.Second), 100*cost.Seconds()/lasts.Seconds())
		if most := int64(12<<20) * int64(lasts/time.Second); read > most {
			t.Errorf("chunks of %d bytes: %d bytes were read in %s, %d at most", chunk, read, lasts, most)
		}
		share := lasts / 20
		if raceDetector {
			share *= 6
		}
		if cost > share {
			t.Errorf("chunks of %d bytes: it has cost %s of %s, %s at most", chunk, cost, lasts, share)
		}
	}
}
