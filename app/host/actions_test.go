package host_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

func TestFetchBringsAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m := newService(t, nil), &memory{}
		got := fetch(t.Context(), s, m)
		action := take(t, s)
		if action.Kind() != domain.KindGetArtifact || action.Path() != "/file" {
			t.Fatalf("handed %s", action)
		}
		if err := s.Artifact(t.Context(), action.ID(), ports.ArtifactReply{Body: text("content"), Size: 7}); err != nil {
			t.Fatal(err)
		}
		if f := <-got; f.err != nil || f.content != "content" {
			t.Fatalf("fetched %q, %v", f.content, f.err)
		}
		if m.left() != 0 {
			t.Errorf("%d files are left", m.left())
		}
	})
}

// The reasons are told apart, each is tried as often as makes sense, and nothing is left.
func TestFetchFails(t *testing.T) {
	type try struct {
		reply ports.ArtifactReply
		err   error // of the reply, as the guest gets to see it
	}
	cut := func() *body {
		b := newBody()
		b.chunks <- []byte("half of it")
		b.end <- io.ErrUnexpectedEOF
		return b
	}
	tests := []struct {
		name  string
		tries []try
		limit domain.Limits
		disk  memory
		is    []error
		words []string
	}{
		{
			name:  "not found",
			tries: []try{{reply: ports.ArtifactReply{Error: "file-not-found", Body: text("")}}},
			is:    []error{domain.ErrResourceNotFound}, words: []string{`"/file"`},
		},
		{
			name:  "an error that version 1 doesn't know",
			tries: []try{{reply: ports.ArtifactReply{Error: "permission-denied\x1b[31m", Body: text("")}}},
			is:    []error{domain.ErrNonFatalInternalError, domain.ErrGuestError}, words: []string{`permission-denied\x1b`},
		},
		{
			name: "cut thrice",
			tries: []try{
				{ports.ArtifactReply{Body: cut(), Size: 100}, domain.ErrBrokenReply},
				{ports.ArtifactReply{Body: cut(), Size: 100}, domain.ErrBrokenReply},
				{ports.ArtifactReply{Body: cut(), Size: 100}, domain.ErrBrokenReply},
			},
			is: []error{domain.ErrNonFatalInternalError, domain.ErrBrokenReply}, words: []string{"3 times", "try 1", "try 3"},
		},
		{
			name:  "announced too large",
			tries: []try{{ports.ArtifactReply{Body: newBody(), Size: 11}, &domain.LimitError{Limit: "ArtifactBytes", Max: 10, Unit: "bytes"}}},
			limit: domain.Limits{ArtifactBytes: 10},
			is:    []error{domain.ErrNonFatalInternalError}, words: []string{"10 bytes", "ArtifactBytes"},
		},
		{
			name:  "too large without a word",
			tries: []try{{ports.ArtifactReply{Body: text("12345678901"), Size: -1}, &domain.LimitError{Limit: "ArtifactBytes", Max: 10, Unit: "bytes"}}},
			limit: domain.Limits{ArtifactBytes: 10},
			is:    []error{domain.ErrNonFatalInternalError}, words: []string{"10 bytes", "ArtifactBytes"},
		},
		{
			name:  "full disk",
			tries: []try{{ports.ArtifactReply{Body: text("content"), Size: 7}, domain.ErrStorage}},
			disk:  memory{write: errors.New("no space left on device")},
			is:    []error{domain.ErrNonFatalInternalError, domain.ErrStorage}, words: []string{"no space left"},
		},
		{
			name:  "no temporary file",
			tries: []try{{ports.ArtifactReply{Body: text("content"), Size: 7}, domain.ErrStorage}},
			disk:  memory{create: errors.New("too many open files")},
			is:    []error{domain.ErrNonFatalInternalError, domain.ErrStorage}, words: []string{"too many open files"},
		},
	}
	for i := range tests {
		test := &tests[i]
		t.Run(test.name, func(t *testing.T) {
			s := newService(t, func(c *host.Config) { c.Limits = test.limit })
			got := fetch(t.Context(), s, &test.disk)
			for n, try := range test.tries {
				err := s.Artifact(t.Context(), take(t, s).ID(), try.reply)
				if !errors.Is(err, try.err) && fmt.Sprint(err) != fmt.Sprint(try.err) {
					t.Errorf("reply %d: %v, want %v", n, err, try.err)
				}
			}
			f := <-got
			wantError(t, f.err, test.is, test.words...)
			if test.disk.left() != 0 || test.disk.committed != 0 {
				t.Errorf("%d files are left, %d committed", test.disk.left(), test.disk.committed)
			}
		})
	}
}

func TestExactlyTheLimitIsFine(t *testing.T) {
	s := newService(t, func(c *host.Config) { c.Limits.ArtifactBytes = 10 })
	got := fetch(t.Context(), s, &memory{})
	if err := s.Artifact(t.Context(), take(t, s).ID(), ports.ArtifactReply{Body: text("1234567890"), Size: -1}); err != nil {
		t.Error(err)
	}
	if f := <-got; f.err != nil || f.content != "1234567890" {
		t.Errorf("fetched %q, %v", f.content, f.err)
	}
}

func TestASecondTryHasAnotherIDAndCanWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m := newService(t, nil), &memory{}
		got := fetch(t.Context(), s, m)
		first := take(t, s)
		broken := newBody()
		broken.end <- errors.New("connection reset")
		if err := s.Artifact(t.Context(), first.ID(), ports.ArtifactReply{Body: broken, Size: 7}); !errors.Is(err, domain.ErrBrokenReply) {
			t.Fatal(err)
		}
		second := take(t, s)
		if second.ID() == first.ID() {
			t.Error("the id was used twice")
		}
		if err := s.Artifact(t.Context(), first.ID(), ports.ArtifactReply{Body: text("late"), Size: 4}); !errors.Is(err, domain.ErrUnknownAction) {
			t.Errorf("a used id was taken: %v", err)
		}
		if err := s.Artifact(t.Context(), second.ID(), ports.ArtifactReply{Body: text("content"), Size: 7}); err != nil {
			t.Fatal(err)
		}
		if f := <-got; f.err != nil || f.content != "content" {
			t.Fatalf("fetched %q, %v", f.content, f.err)
		}
	})
}

func TestNobodyPollsThrice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		start := time.Now()
		f := <-fetch(t.Context(), s, &memory{})
		wantError(t, f.err, []error{domain.ErrNonFatalInternalError, domain.ErrNoPoll})
		if took := time.Since(start); took != 90*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestNobodyRepliesThrice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		start := time.Now()
		got := fetch(t.Context(), s, &memory{})
		for range 3 {
			time.Sleep(10 * time.Second)
			id := take(t, s).ID()
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if err := s.Artifact(t.Context(), id, ports.ArtifactReply{Body: text("late"), Size: 4}); !errors.Is(err, domain.ErrUnknownAction) {
				t.Errorf("a reply after 30 s was taken: %v", err)
			}
		}
		f := <-got
		wantError(t, f.err, []error{domain.ErrNonFatalInternalError, domain.ErrNoReply})
		if took := time.Since(start); took != 120*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// Claimed within 30 s, a body may take as long as it keeps coming.
func TestALongTransferIsFine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		got := fetch(t.Context(), s, &memory{})
		id := take(t, s).ID()
		b := newBody()
		go func() {
			for range 100 {
				time.Sleep(20 * time.Second)
				b.chunks <- make([]byte, 40<<10)
			}
			b.end <- io.EOF
		}()
		if err := s.Artifact(t.Context(), id, ports.ArtifactReply{Body: b, Size: 100 * 40 << 10}); err != nil {
			t.Fatal(err)
		}
		if f := <-got; f.err != nil || len(f.content) != 100*40<<10 {
			t.Fatalf("fetched %d bytes, %v", len(f.content), f.err)
		}
	})
}

// A disk that takes its time isn't the sender's fault.
func TestASlowDiskIsNotASlowGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		got := make(chan error, 1)
		go func() {
			file, err := s.Fetch(t.Context(), "/file", slowStorage{&memory{}})
			if err == nil {
				err = file.Close()
			}
			got <- err
		}()
		b := newBody()
		for range 3 {
			b.chunks <- []byte("a few bytes")
		}
		b.end <- io.EOF
		if err := s.Artifact(t.Context(), take(t, s).ID(), ports.ArtifactReply{Body: b, Size: 33}); err != nil {
			t.Error(err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
}

type slowStorage struct{ ports.Storage }

func (s slowStorage) Create(size int64) (ports.Upload, error) {
	upload, err := s.Storage.Create(size)
	return slowUpload{upload}, err
}

type slowUpload struct{ ports.Upload }

func (u slowUpload) Write(p []byte) (int, error) {
	time.Sleep(time.Minute)
	return u.Upload.Write(p)
}

// Whatever the guest does, a caller is back at once when it gives up, and nothing is left.
func TestACallerCanGiveUp(t *testing.T) {
	moments := map[string]func(t *testing.T, s *host.Service){
		"on offer":        func(*testing.T, *host.Service) {},
		"with a guest":    func(t *testing.T, s *host.Service) { take(t, s) },
		"in the transfer": func(t *testing.T, s *host.Service) { replyForever(t, s, newBody()) },
		"in a dripping transfer": func(t *testing.T, s *host.Service) {
			b := newBody()
			ctx := t.Context()
			go func() {
				for ctx.Err() == nil {
					select {
					case <-time.After(time.Millisecond):
					case <-ctx.Done():
					}
					select {
					case b.chunks <- make([]byte, 4096):
					default:
					}
				}
			}()
			replyForever(t, s, b)
		},
	}
	ways := map[string]struct {
		end func(cancel context.CancelFunc, s *host.Service)
		err error
	}{
		"cancel": {func(cancel context.CancelFunc, _ *host.Service) { cancel() }, context.Canceled},
		"close":  {func(_ context.CancelFunc, s *host.Service) { s.Close() }, domain.ErrSandboxTerminated},
	}
	for moment, begin := range moments {
		for way, w := range ways {
			t.Run(moment+", "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, m := newService(t, nil), &memory{}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					got := fetch(ctx, s, m)
					synctest.Wait()
					begin(t, s)
					time.Sleep(5 * time.Second)
					before := time.Now()
					w.end(cancel, s)
					f := <-got
					wantError(t, f.err, []error{w.err})
					if took := time.Since(before); took > time.Second {
						t.Errorf("the caller was back after %s", took)
					}
					if m.left() != 0 {
						t.Errorf("%d files are left", m.left())
					}
				})
			})
		}
	}
}

func replyForever(t *testing.T, s *host.Service, b *body) {
	id := take(t, s).ID()
	go s.Artifact(context.WithoutCancel(t.Context()), id, ports.ArtifactReply{Body: b, Size: -1})
}

// Behind somebody's middleware a connection may have no deadlines. The caller is freed all the same.
func TestABodyWithoutDeadlinesFreesTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, func(c *host.Config) { c.Limits.Tries = 1 })
		got := fetch(t.Context(), s, &memory{})
		b := newBody()
		id := take(t, s).ID()
		replied := make(chan error, 1)
		go func() { replied <- s.Artifact(t.Context(), id, ports.ArtifactReply{Body: deaf{b}, Size: 100}) }()
		b.chunks <- []byte("1")
		start := time.Now()
		f := <-got
		wantError(t, f.err, []error{domain.ErrNonFatalInternalError, domain.ErrSlowReply})
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("it took %s", took)
		}
		b.end <- io.ErrUnexpectedEOF // the server's end
		<-replied
	})
}

// And a file that comes whole after all, when nobody waits for it any more, is not left behind.
func TestAFileThatComesTooLateIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s := newService(t, func(c *host.Config) { c.Limits.Tries = 1 })
		got := fetch(t.Context(), s, m)
		b := newBody()
		id := take(t, s).ID()
		replied := make(chan error, 1)
		go func() { replied <- s.Artifact(t.Context(), id, ports.ArtifactReply{Body: deaf{b}, Size: -1}) }()
		f := <-got
		wantError(t, f.err, []error{domain.ErrSlowReply})
		b.chunks <- []byte("late")
		b.end <- io.EOF
		<-replied
		if m.left() != 0 {
			t.Errorf("%d files are left", m.left())
		}
	})
}

func TestListFolder(t *testing.T) {
	many := `"/folder/1","/folder/2","/folder/3","/folder/4"`
	tests := []struct {
		name    string
		reply   string
		size    int64
		replies int
		files   string
		refused int
		is      []error
		words   []string
	}{
		{name: "files", reply: `{"files":["/folder/a","/folder/b/c"]}`, replies: 1, files: "a b/c"},
		{name: "empty", reply: `{"files":[]}`, replies: 1},
		{name: "a file", reply: `{"files":["/folder"]}`, replies: 1, files: "."},
		{name: "lies", reply: `{"files":["/folder/../x","/etc/passwd","/folder/a","/folder/a"]}`, replies: 1, files: "a", refused: 3},
		{name: "not found", reply: `{"notFound":true}`, replies: 1, is: []error{domain.ErrResourceNotFound}},
		{name: "no JSON", reply: `{"files":[`, replies: 3, is: []error{domain.ErrNonFatalInternalError}, words: []string{"3 times"}},
		{name: "too many", reply: `{"files":[` + many + `,"/folder/5"]}`, replies: 1, is: []error{domain.ErrNonFatalInternalError}, words: []string{"4 names", "ListEntries"}},
		{name: "as many as may be", reply: `{"files":[` + many + `]}`, replies: 1, files: "1 2 3 4"},
		{name: "lies count too", reply: `{"files":["","","","",""]}`, replies: 1, is: []error{domain.ErrNonFatalInternalError}, words: []string{"ListEntries"}},
		{name: "too long", reply: `{"files":["` + strings.Repeat("x", 200) + `"]}`, replies: 1, is: []error{domain.ErrNonFatalInternalError}, words: []string{"200 bytes", "ListBytes"}},
		{name: "announced too long", size: 201, replies: 1, is: []error{domain.ErrNonFatalInternalError}, words: []string{"200 bytes", "ListBytes"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newService(t, func(c *host.Config) { c.Limits = domain.Limits{ListEntries: 4, ListBytes: 200} })
			var listing domain.Listing
			got := make(chan error, 1)
			go func() {
				var err error
				listing, err = s.List(t.Context(), "/folder")
				got <- err
			}()
			for range test.replies {
				s.Folder(t.Context(), take(t, s).ID(), ports.FolderReply{Body: text(test.reply), Size: test.size, Decode: decodeJSON})
			}
			err := <-got
			if len(test.is) > 0 {
				wantError(t, err, test.is, test.words...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var files []string
			for _, file := range listing.Files {
				files = append(files, file.Relative)
			}
			if strings.Join(files, " ") != test.files || listing.Refused != test.refused {
				t.Errorf("listed %q, refused %d", files, listing.Refused)
			}
		})
	}
}

func TestAReplyOfAnotherKindFailsTheAction(t *testing.T) {
	s := newService(t, func(c *host.Config) { c.Limits.Tries = 1 })
	got := make(chan error, 1)
	go func() { got <- s.Kill(t.Context()) }()
	if err := s.Artifact(t.Context(), take(t, s).ID(), ports.ArtifactReply{Body: text("")}); !errors.Is(err, domain.ErrInvalidReply) {
		t.Errorf("the reply: %v", err)
	}
	wantError(t, <-got, []error{domain.ErrNonFatalInternalError, domain.ErrInvalidReply})
}

func TestKill(t *testing.T) {
	s := newService(t, nil)
	got := make(chan error, 1)
	go func() { got <- s.Kill(t.Context()) }()
	action := take(t, s)
	if action.Kind() != domain.KindKillProcess {
		t.Errorf("handed %s", action)
	}
	if err := s.Killed(t.Context(), action.ID()); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// Handing an action over moves its deadline forward where Reply is shorter than what is left of Offer.
func TestAShortWaitForTheReplyIsKept(t *testing.T) {
	for _, after := range []time.Duration{0, 300 * time.Millisecond, time.Second, 2500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			s := newService(t, func(c *host.Config) { c.Limits.Reply, c.Limits.Tries = time.Second, 1 })
			got := fetch(t.Context(), s, &memory{})
			time.Sleep(after)
			take(t, s)
			start := time.Now()
			wantError(t, (<-got).err, []error{domain.ErrNoReply})
			if took := time.Since(start); took != time.Second {
				t.Errorf("taken after %s, it failed %s later", after, took)
			}
		})
	}
}
