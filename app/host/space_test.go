package host_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// disk is a storage that fills up as it is written to.
type disk struct {
	memory
	size    int64
	written int64
	created int
	err     error // of Space
}

func (d *disk) Space() (free, all int64, err error) { return d.size - d.written, d.size, d.err }

func (d *disk) Create(size int64) (ports.Upload, error) {
	d.created++
	upload, err := d.memory.Create(size)
	return &diskUpload{upload, d}, err
}

type diskUpload struct {
	ports.Upload
	disk *disk
}

func (u *diskUpload) Write(p []byte) (int, error) {
	u.disk.written += int64(len(p))
	return len(p), nil // kept nowhere
}

// Threat 11: a guest that fills its host's disk stops while there is some of it left, and what was announced
// to be too much isn't begun.
func TestThreat11SomeOfTheDiskStaysFree(t *testing.T) {
	const mib = 1 << 20
	const look = 16 * mib // how far apart looks at the disk are
	for name, test := range map[string]struct {
		size, announced, comes int64
		limit                  int64
		spaceErr               error
		fails                  bool
		most                   int64 // written, with its last look
	}{
		"enough":                        {size: 10 << 30, announced: 64 * mib, comes: 64 * mib, most: 64 * mib},
		"announced":                     {size: 1000 * mib, announced: 951 * mib, comes: 951 * mib, fails: true},
		"announced, and just not":       {size: 1000 * mib, announced: 100 * mib, comes: 100 * mib, most: 100 * mib},
		"not announced":                 {size: 100 * mib, announced: -1, comes: 200 * mib, fails: true, most: 95*mib + look},
		"a limit of one's own":          {size: 100 * mib, announced: -1, comes: 200 * mib, limit: 60 * mib, fails: true, most: 40*mib + look},
		"a disk that is too full":       {size: 100 * mib, announced: 0, limit: 101 * mib, fails: true},
		"a disk of which nobody knows":  {size: 10 * mib, announced: 64 * mib, comes: 64 * mib, spaceErr: errors.ErrUnsupported, most: 64 * mib},
		"lied about, and then too much": {size: 100 * mib, announced: 1, comes: 200 * mib, fails: true, most: 95*mib + look},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logged bytes.Buffer
				s := newService(t, func(c *host.Config) {
					c.Limits = domain.Limits{DiskFree: test.limit}
					c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
				})
				d := &disk{size: test.size, err: test.spaceErr}
				got := make(chan error, 1)
				go func() {
					file, err := s.Fetch(t.Context(), "/f", d)
					if err == nil {
						file.Close()
					}
					got <- err
				}()
				var id domain.ActionID
				if err := s.Poll(t.Context(), func(a domain.Action) error { id = a.ID(); return nil }); err != nil {
					t.Fatal(err)
				}
				replied := s.Artifact(t.Context(), id, ports.ArtifactReply{Body: endless{io.LimitReader(zeros{}, test.comes)}, Size: test.announced})
				err := <-got
				if failed := err != nil; failed != test.fails || (replied != nil) != test.fails {
					t.Fatalf("the caller got %v, the guest %v", err, replied)
				}
				if d.written > test.most || !test.fails && d.written != test.comes {
					t.Errorf("%d bytes were written", d.written)
				}
				if !test.fails {
					return
				}
				if !errors.Is(err, domain.ErrStorage) || !strings.Contains(err.Error(), "the limit DiskFree keeps") || strings.Contains(err.Error(), "try 1") {
					t.Errorf("the error is %v", err)
				}
				if test.most == 0 && d.created > 0 {
					t.Error("an upload was begun")
				}
				if strings.Count(logged.String(), "the limit DiskFree") != 1 {
					t.Errorf("the log is %s", logged.String())
				}
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type endless struct{ io.Reader }

func (endless) SetReadDeadline(time.Time) error { return nil }

// A shell that breaks off at a limit is in the log, too; one that ends as shells do isn't.
func TestBrokenShellsAreToldInTheLog(t *testing.T) {
	var logged bytes.Buffer
	s := newService(t, func(c *host.Config) { c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
	const shells = 10
	for range shells {
		broken, _, served := openOne(t, s, domain.ShellSpec{})
		broken.end(domain.Result{}, fmt.Errorf("%w: a flood of \x1b", domain.ErrInvalidFrame))
		broken.exits(false, 1)
		<-served
		fine, _, served := openOne(t, s, domain.ShellSpec{})
		fine.exits(true, 0)
		<-served
		_, aborted, served := openOne(t, s, domain.ShellSpec{})
		if err := aborted.Abort(); err != nil {
			t.Error(err)
		}
		<-served
	}
	s.Close()
	text := logged.String()
	if strings.Count(text, "a shell broke off") != 5 || !strings.Contains(text, "time=8") || strings.Contains(text, "\x1b") {
		t.Errorf("%d broken shells are told as\n%s", shells, text)
	}
}

// Limits that a guest meets are in the log, with how often, and not each time.
func TestLimitsAreToldInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		s := newService(t, func(c *host.Config) {
			c.Limits = domain.Limits{Polls: 1, LogBytes: 3}
			c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		})
		ended := make(chan error, 100)
		for range cap(ended) {
			go func() { ended <- s.Poll(t.Context(), func(domain.Action) error { return nil }) }()
			synctest.Wait()
		}
		if err := s.Log(t.Context(), strings.NewReader("12345")); err != nil {
			t.Error(err)
		}
		if err := s.Resolve(t.Context(), domain.Result{Success: true}); err != nil {
			t.Error(err)
		}
		<-s.Settled()
		s.Close()
		for range cap(ended) {
			<-ended
		}
		text := logged.String()
		if n := strings.Count(text, "the limit Polls allows"); n != 8 || !strings.Contains(text, "time=64") {
			t.Errorf("99 polls too many were told %d times:\n%s", n, text)
		}
		if !strings.Contains(text, "the limit LogBytes allows") || !strings.Contains(text, "cut=2") {
			t.Errorf("the log is\n%s", text)
		}
	})
}
