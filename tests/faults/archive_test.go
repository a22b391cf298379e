package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hexworker/metaservice/adapters/chiapi"
	"github.com/hexworker/metaservice/adapters/httpserver"
	"github.com/hexworker/metaservice/adapters/uuids"
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
	"github.com/hexworker/metaservice/tests/contract"
)

// keeper is a ports.Folder in memory, which knows how often a file was committed.
type keeper struct {
	mu    sync.Mutex
	files map[string]string
	times map[string]int
}

func (k *keeper) File(name string) ports.Storage { return keptFile{k, name} }

type keptFile struct {
	*keeper
	name string
}

func (f keptFile) Create(int64) (ports.Upload, error) { return &keptUpload{keptFile: f}, nil }

type keptUpload struct {
	keptFile
	bytes.Buffer
}

func (u *keptUpload) Close() error { return nil }

func (u *keptUpload) Commit() (io.ReadSeekCloser, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[u.name] = u.String()
	u.times[u.name]++
	return struct {
		io.ReadSeeker
		io.Closer
	}{strings.NewReader(""), io.NopCloser(nil)}, nil
}

// TestMatrixOfArchives is the matrix's row of get-folder, which takes a host of the app's own. The fault strikes
// once, so in the end all files are there, whole, and none was handled twice.
func TestMatrixOfArchives(t *testing.T) {
	folder := guestFolder(t)
	want := map[string]string{"file": artifact, "large": large, "small": "small"}
	for i := range listNames {
		want[fmt.Sprintf("folder/file-%04d", i)] = ""
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, kind := range Kinds() {
		for _, moment := range Moments() {
			if !*contract.Long && (int(moment)+i)%3 > 0 && moment != AmidBody {
				continue // each fault meets two other moments, and each moment several faults
			}
			c := cell{endpoint{name: "archive", request: "POST " + wire.PathReply, ask: "archive", body: 50_000}, kind, moment}
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				if err := c.bringOut(folder, want); err != nil {
					t.Errorf("%s: %v", c, err)
				}
			})
		}
	}
	all.Wait()
}

// bringOut has a guest of its own bring the folder out, through the cell's fault.
func (c cell) bringOut(folder string, want map[string]string) error {
	silence := slog.New(slog.DiscardHandler)
	service, err := host.New(host.Config{IDs: uuids.Random{}, Limits: limits, Execute: domain.Execute{Command: []string{"task"}}})
	if err != nil {
		return err
	}
	defer service.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	life, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- httpserver.Serve(life, listener, chiapi.New(service, silence), silence) }()
	defer func() {
		stop()
		<-served
	}()
	w := &world{}
	if w.proxy, err = NewProxy(listener.Addr().String()); err != nil {
		return err
	}
	defer w.proxy.Close()
	w.proxy.Inject(c.fault())
	m, err := w.join(folder, "boot", false, Programs{Task: func(context.Context, Streams) int { return 0 }, Shell: chatter})
	if err != nil {
		return err
	}
	defer m.leave()
	ctx, cancel := context.WithTimeout(life, callTime)
	defer cancel()
	if _, err := service.Outcome(ctx); err != nil { // it has said hello, long ago
		return err
	}
	if !service.Features().Has(domain.FeatureTar) {
		return fmt.Errorf("the guest can't %v", service.Features())
	}
	k := &keeper{files: make(map[string]string), times: make(map[string]int)}
	begun := time.Now()
	got := service.Collect(ctx, host.Wanted{Path: ".", Folder: func() (ports.Folder, error) { return k, nil }}, nil)
	k.mu.Lock()
	defer k.mu.Unlock()
	if got.Err != nil || got.Files != len(want) || !maps.Equal(k.files, want) {
		return fmt.Errorf("I12: %d of %d files came in %s: %w", len(k.files), len(want), time.Since(begun), got.Err)
	}
	for name, times := range k.times {
		if times > 1 {
			return fmt.Errorf("%q was handled %d times", name, times)
		}
	}
	for w.proxy.Struck() == 0 { // the guest's answer is on its way
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return errors.New("the fault has not struck")
		}
	}
	_, err = service.Fetch(ctx, "small", keptFile{&keeper{files: make(map[string]string), times: make(map[string]int)}, "small"})
	if err != nil {
		return fmt.Errorf("afterwards, a file: %w", err)
	}
	return nil
}
