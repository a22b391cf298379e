package limits

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

// A task that floods its host has used up all requests of a guest whose tools show no token, theirs too. What the host
// asks these for is brought all the same, at the first try.
func TestWhatTheHostAsksForComesBesideAFlood(t *testing.T) {
	const files = 20
	w := newWorld(t, metaservice.WithLimits(metaservice.Limits{Tries: 1, RequestBurst: 5, Requests: 20, Reply: 30 * time.Second}))
	w.floods = true
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer stop()
	for range 6 {
		flood.Go(func() {
			for ctx.Err() == nil {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.address)
				if err != nil {
					return
				}
				end := context.AfterFunc(ctx, func() { conn.Close() })
				_, _ = io.WriteString(conn, strings.Repeat("GET "+wire.PathPing+" HTTP/1.1\r\nHost: h\r\n\r\n", 50))
				_, _ = io.ReadFull(conn, make([]byte, 1<<10)) // and hangs up, so that nobody holds it
				end()
				conn.Close()
			}
		})
	}
	defer w.guest(t, func(ctx context.Context, action domain.Action) error {
		return w.client.SendArtifact(ctx, action.ID(), file{strings.NewReader("content")})
	})()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(w.said.String(), "RequestBurst") {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the flood meets no limit")
		}
	}
	for range files {
		artifact, err := w.Artifact(t.Context(), "/file")
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(artifact)
		if artifact.Close(); err != nil || string(content) != "content" {
			t.Errorf("it is %q, %v", content, err)
		}
	}
}
