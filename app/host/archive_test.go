package host_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// greet says hello.
func greet(t *testing.T, api ports.GuestAPI, features ...domain.Feature) {
	t.Helper()
	if _, err := api.Hello(t.Context(), domain.Hello{BootID: "1", Features: features}); err != nil {
		t.Error(err)
	}
}

// textFile is a ports.File in memory.
type textFile struct{ *strings.Reader }

func (textFile) Close() error { return nil }

// pack is an archive of these files, in the order of their names. "gone" is a file that isn't there.
func pack(content map[string]string) []byte {
	var buf bytes.Buffer
	err := wire.EncodeArchive(&buf, func(yield func(ports.FolderFile, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(content)) {
			file := ports.FolderFile{Name: name, File: textFile{strings.NewReader(content[name])}}
			switch failure, failed := strings.CutPrefix(content[name], "!"); {
			case failed:
				file = ports.FolderFile{Name: name, Failure: domain.FileFailure(failure)}
			case content[name] == "gone":
				file = ports.FolderFile{Name: name, Failure: domain.FailureNotFound}
			}
			if !yield(file, nil) {
				return
			}
		}
	})
	if err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// below is what of a guest's files is below a path, by relative names.
func below(path string, content map[string]string) map[string]string {
	found := make(map[string]string)
	for name, text := range content {
		if rest, ok := strings.CutPrefix(name, path+"/"); ok {
			found[rest] = text
		} else if name == path {
			found["."] = text
		}
	}
	return found
}

// sent is an archive as a reply.
func sent(data []byte, end error) ports.ArchiveReply {
	b := newBody()
	b.chunks <- data
	b.end <- end
	return ports.ArchiveReply{Body: b, Decode: wire.DecodeArchive}
}

// archiveOf is what the guest files answers.
func archiveOf(path string, content map[string]string) ports.ArchiveReply {
	found := below(path, content)
	if len(found) == 0 && path != "/empty" {
		return ports.ArchiveReply{Body: text(""), Error: "file-not-found"}
	}
	return sent(pack(found), io.EOF)
}

// streams is a guest with files in /f that answers a get-folder by its own ways, and all else as it should. It
// counts what it is asked.
type streams struct {
	content map[string]string // by relative names
	archive func(api ports.GuestAPI, id domain.ActionID) error

	mu    sync.Mutex
	asked map[string]int // by the action, without its id
}

func (g *streams) serve(ctx context.Context, api ports.GuestAPI) {
	for {
		var a domain.Action
		if err := api.Poll(ctx, func(got domain.Action) error { a = got; return nil }); err != nil {
			return
		}
		g.mu.Lock()
		if g.asked == nil {
			g.asked = make(map[string]int)
		}
		if a.Kind() != domain.KindNone {
			g.asked[a.Kind().String()+" "+a.Path()]++
		}
		g.mu.Unlock()
		switch a.Kind() {
		case domain.KindGetFolder:
			go g.archive(api, a.ID())
		case domain.KindListFolder:
			var list bytes.Buffer
			wire.EncodeFiles(&list, func(yield func(string, error) bool) {
				for name := range g.content {
					if !yield(strings.TrimSuffix("/f/"+name, "/."), nil) {
						return
					}
				}
			})
			api.Folder(ctx, a.ID(), ports.FolderReply{Body: text(list.String()), Size: -1, Decode: wire.DecodeFiles})
		case domain.KindGetArtifact:
			content := g.content[strings.TrimPrefix(strings.TrimPrefix(a.Path(), "/f"), "/")]
			api.Artifact(ctx, a.ID(), ports.ArtifactReply{Body: text(content), Size: int64(len(content))})
		}
	}
}

func (g *streams) was(asked string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked[asked]
}

// extract has an engine's result set bring /f out of such a guest.
func extract(t *testing.T, ctx context.Context, g *streams, limits domain.Limits, handler ports.FileHandler) (*memory, error) {
	t.Helper()
	storage := &memory{}
	return storage, extractTo(t, ctx, storage, g, limits, domain.Features{domain.FeatureTar}, handler)
}

func extractTo(t *testing.T, ctx context.Context, storage ports.Storage, g *streams, limits domain.Limits, features domain.Features, handler ports.FileHandler) error {
	t.Helper()
	m := &machine{guest: func(ctx context.Context, api ports.GuestAPI) error {
		if _, err := api.Hello(ctx, domain.Hello{BootID: "1", Features: features}); err != nil {
			return err
		}
		if err := api.Resolve(ctx, domain.Result{Success: true}); err != nil {
			return err
		}
		var polls sync.WaitGroup
		for range 3 {
			polls.Go(func() { g.serve(ctx, api) })
		}
		polls.Wait()
		return nil
	}}
	engine, err := host.NewEngine(host.EngineConfig{
		Machine: m, Storage: storage, IDs: &counter{}, Limits: limits,
		Handler: func(api ports.GuestAPI, _ map[string]ports.Handler) ports.Handler {
			m.api = api
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Dispose(context.Background())
	result, err := startSandbox(t, engine).WaitForResult(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return result.ExtractFolder(ctx, "/f", handler)
}

// collector is a handler that keeps what came.
type collector struct {
	mu    sync.Mutex
	got   map[string]string
	twice []string
}

func (c *collector) take(name string, file io.ReadSeeker) error {
	content, err := io.ReadAll(file)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got == nil {
		c.got = make(map[string]string)
	}
	if _, again := c.got[name]; again {
		c.twice = append(c.twice, name)
	}
	c.got[name] = string(content)
	return err
}

// someFiles are small ones and a few large ones.
func someFiles() map[string]string {
	content := map[string]string{"large": strings.Repeat("0123456789", 30_000), "larger/file": strings.Repeat("abc", 800_000), "empty": ""}
	for i := range 30 {
		content[fmt.Sprintf("small/%02d", i)] = strings.Repeat("x", i*100)
	}
	return content
}

func TestAFolderComesInOneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, c := &streams{content: someFiles()}, &collector{}
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			return api.Archive(t.Context(), id, sent(pack(g.content), io.EOF))
		}
		storage, err := extract(t, t.Context(), g, domain.Limits{}, c.take)
		if err != nil || !maps.Equal(c.got, g.content) || len(c.twice) > 0 || storage.left() != 0 {
			t.Errorf("%d of %d files came, %q twice, %d are open: %v", len(c.got), len(g.content), c.twice, storage.left(), err)
		}
		if len(g.asked) != 1 || g.was("get-folder /f") != 1 {
			t.Errorf("the guest was asked %v", g.asked)
		}
	})
}

// A stream that breaks off, anywhere and anyhow, is gone on with file by file: each file is handled once, and
// whole.
func TestAStreamThatBreaksOffIsGoneOnWith(t *testing.T) {
	content := someFiles()
	whole := pack(content)
	cuts := []int{0, 1, 511, 512, 1024, len(whole) - 1, len(whole) - 512, len(whole) - 1024}
	for at := 7000; at < len(whole); at += 400_007 {
		cuts = append(cuts, at)
	}
	for i, at := range cuts {
		synctest.Test(t, func(t *testing.T) {
			g, c := &streams{content: content}, &collector{}
			end := []error{io.EOF, io.ErrUnexpectedEOF}[i%2]
			g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
				return api.Archive(t.Context(), id, sent(whole[:at], end))
			}
			storage, err := extract(t, t.Context(), g, domain.Limits{}, c.take)
			if err != nil || !maps.Equal(c.got, content) || len(c.twice) > 0 || storage.left() != 0 {
				t.Errorf("cut at %d: %d of %d files came, %q twice, %d are open: %v", at, len(c.got), len(content), c.twice, storage.left(), err)
			}
			if again := g.was("get-folder /f"); again != 1 || g.was("list-folder /f") != 1 {
				t.Errorf("cut at %d: the guest was asked %d times for the archive", at, again)
			}
			if asked := g.was("get-artifact /f/empty"); (at < 512) != (asked > 0) {
				t.Errorf("cut at %d: the first file was asked for %d times", at, asked)
			}
		})
	}
}

// What no guest answered at all is asked for again, as a list would be.
func TestAnArchiveThatNobodyAnswersIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, c := &streams{content: someFiles()}, &collector{}
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			if g.was("get-folder /f") < 3 {
				return nil
			}
			return api.Archive(t.Context(), id, sent(pack(g.content), io.EOF))
		}
		if _, err := extract(t, t.Context(), g, domain.Limits{}, c.take); err != nil || len(c.got) != len(g.content) || g.was("list-folder /f") != 0 {
			t.Errorf("%d files came, asked %v: %v", len(c.got), g.asked, err)
		}
		g.asked, g.archive = nil, func(ports.GuestAPI, domain.ActionID) error { return nil }
		_, err := extract(t, t.Context(), g, domain.Limits{}, c.take)
		wantError(t, err, []error{domain.ErrNonFatalInternalError, domain.ErrNoReply}, "get-folder", "3 times")
	})
}

// The guest tells which file failed, and why: an extraction ends with that.
func TestAFileOfAnArchiveThatFails(t *testing.T) {
	for failure, is := range map[domain.FileFailure][]error{
		domain.FailureNotFound: {domain.ErrResourceNotFound}, domain.FailureDenied: {domain.ErrResourceNotFound},
		domain.FailureIO: {domain.ErrNonFatalInternalError, domain.ErrGuestError},
	} {
		synctest.Test(t, func(t *testing.T) {
			g, c := &streams{content: map[string]string{"a": "1", "b": "!" + string(failure)}}, &collector{}
			g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
				return api.Archive(t.Context(), id, sent(pack(g.content), io.EOF))
			}
			storage, err := extract(t, t.Context(), g, domain.Limits{}, c.take)
			word := string(failure)
			if failure == domain.FailureNotFound {
				word = "not found"
			}
			wantError(t, err, is, `"/f/b"`, word)
			if storage.left() != 0 || g.was("list-folder /f") > 0 {
				t.Errorf("%d files are open, asked %v", storage.left(), g.asked)
			}
		})
	}
}

// A file whose size nobody knows before it has been read is asked for by itself.
func TestAFileWithoutASizeIsAskedForByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, c := &streams{content: map[string]string{"a": "1", "kernel": "as the kernel tells it", "z": "3"}}, &collector{}
		told := maps.Clone(g.content)
		told["kernel"] = "!apart"
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			return api.Archive(t.Context(), id, sent(pack(told), io.EOF))
		}
		_, err := extract(t, t.Context(), g, domain.Limits{}, c.take)
		if err != nil || !maps.Equal(c.got, g.content) || g.was("get-artifact /f/kernel") != 1 || len(g.asked) != 2 {
			t.Errorf("%q came, asked %v: %v", c.got, g.asked, err)
		}
	})
}

// A handler that takes its time is not the guest's fault, others go on meanwhile, and what waits is bounded.
func TestASlowHandlerIsNotASlowGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &streams{content: make(map[string]string)}
		for i := range 100 {
			g.content[fmt.Sprint(i)] = strings.Repeat("x", 100_000*(i%2))
		}
		packed := pack(g.content)
		b := newBody()
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			go func() {
				for part := range slices.Chunk(packed, 10_000) {
					b.chunks <- part
				}
				b.end <- io.EOF
			}()
			return api.Archive(t.Context(), id, ports.ArchiveReply{Body: b, Decode: wire.DecodeArchive})
		}
		var busy, most, calls atomic.Int64
		start := time.Now()
		_, err := extract(t, t.Context(), g, domain.Limits{}, func(string, io.ReadSeeker) error {
			calls.Add(1)
			if n := busy.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(10 * time.Minute)
			busy.Add(-1)
			return nil
		})
		if took := time.Since(start); err != nil || calls.Load() != 100 || most.Load() != 8 || took > 140*time.Minute {
			t.Errorf("%d files were handled, %d at a time, in %s: %v", calls.Load(), most.Load(), took, err)
		}
		if len(g.asked) != 1 {
			t.Errorf("the guest was asked %v", g.asked)
		}
	})
}

// A guest that sends its archive too slowly is not waited for.
func TestAnArchiveThatStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, c := &streams{content: someFiles()}, &collector{}
		packed := pack(g.content)
		b := newBody()
		b.chunks <- packed[:20_000]
		replied := make(chan error, 1)
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			replied <- api.Archive(t.Context(), id, ports.ArchiveReply{Body: b, Decode: wire.DecodeArchive})
			return nil
		}
		start := time.Now()
		_, err := extract(t, t.Context(), g, domain.Limits{}, c.take)
		if took := time.Since(start); err != nil || !maps.Equal(c.got, g.content) || len(c.twice) > 0 || took != 30*time.Second {
			t.Errorf("%d files came in %s, %q twice: %v", len(c.got), took, c.twice, err)
		}
		if err := <-replied; !errors.Is(err, domain.ErrSlowReply) {
			t.Errorf("the guest is told %v", err)
		}
	})
}

// A body without deadlines can't be interrupted; its caller is free all the same, and what comes of it later
// is nobody's.
func TestAnArchiveWithoutDeadlines(t *testing.T) {
	for _, at := range []int{20_000, 400_000} { // between files, and amid one
		synctest.Test(t, func(t *testing.T) {
			g, c := &streams{content: someFiles()}, &collector{}
			packed := pack(g.content)
			b := newBody()
			b.chunks <- packed[:at]
			replied := make(chan error, 1)
			g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
				replied <- api.Archive(t.Context(), id, ports.ArchiveReply{Body: deaf{b}, Decode: wire.DecodeArchive})
				return nil
			}
			storage, err := extract(t, t.Context(), g, domain.Limits{}, c.take)
			if err != nil || !maps.Equal(c.got, g.content) || len(c.twice) > 0 {
				t.Errorf("%d files came, %q twice: %v", len(c.got), c.twice, err)
			}
			b.chunks <- packed[at:]
			b.end <- io.EOF
			if err := <-replied; err == nil {
				t.Error("the guest is told that its archive was taken")
			}
			if storage.left() != 0 || len(c.twice) > 0 {
				t.Errorf("%d files are open, %q came twice", storage.left(), c.twice)
			}
		})
	}
}

// I9: whoever gives up is free at once, whatever the stream does, and nothing is left.
func TestAnArchiveThatIsGivenUp(t *testing.T) {
	enough := errors.New("enough of it")
	for what, test := range map[string]struct {
		handler func(cancel context.CancelCauseFunc) error
		is      error
	}{
		"by its context": {func(cancel context.CancelCauseFunc) error { cancel(enough); return nil }, enough},
		"by its handler": {func(context.CancelCauseFunc) error { return enough }, domain.ErrHandlerInterrupt},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &streams{content: someFiles()}
			b := newBody()
			b.chunks <- pack(g.content)[:400_000] // and then silence
			g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
				return api.Archive(t.Context(), id, ports.ArchiveReply{Body: b, Decode: wire.DecodeArchive})
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			start := time.Now()
			storage, err := extract(t, ctx, g, domain.Limits{}, func(string, io.ReadSeeker) error { return test.handler(cancel) })
			if took := time.Since(start); took > time.Second || storage.left() != 0 || g.was("list-folder /f") > 0 {
				t.Errorf("%s: it took %s, %d files are open, asked %v", what, took, storage.left(), g.asked)
			}
			wantError(t, err, []error{enough, test.is})
		})
	}
}

func TestAFileIsNoFolderInAnArchiveEither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &streams{content: map[string]string{".": "content"}}
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			return api.Archive(t.Context(), id, sent(pack(g.content), io.EOF))
		}
		_, err := extract(t, t.Context(), g, domain.Limits{}, func(name string, _ io.ReadSeeker) error { return errors.New(name) })
		wantError(t, err, []error{domain.ErrResourceNotFound}, "is a file")
		if len(g.asked) != 1 {
			t.Errorf("the guest was asked %v", g.asked)
		}
	})
}

// The guest may not change its mind about what the path is.
func TestAFolderThatBecomesAFile(t *testing.T) {
	for _, first := range []string{"a", "."} {
		synctest.Test(t, func(t *testing.T) {
			g := &streams{content: map[string]string{map[string]string{"a": ".", ".": "a"}[first]: "content"}}
			g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
				return api.Archive(t.Context(), id, sent(pack(map[string]string{first: "content"})[:1024], io.EOF))
			}
			s, target := newService(t, nil), &folder{}
			greet(t, s, domain.FeatureTar)
			go g.serve(t.Context(), s)
			got := s.Collect(t.Context(), host.Wanted{Path: "/f",
				File:   func() (ports.Storage, error) { return &target.memory, nil },
				Folder: func() (ports.Folder, error) { return target, nil },
			}, nil)
			wantError(t, got.Err, []error{domain.ErrInvalidReply}, "a file, and a folder")
			if got.Files != 1 {
				t.Errorf("%d files came", got.Files)
			}
			s.Close()
		})
	}
}

// The word of the taker's counts, and is not asked for again.
func TestATargetThatCantBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &streams{content: map[string]string{"a": "content"}}
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			return api.Archive(t.Context(), id, sent(pack(g.content), io.EOF))
		}
		s, broken := newService(t, nil), errors.New("permission denied")
		greet(t, s, domain.FeatureTar)
		go g.serve(t.Context(), s)
		asked := 0
		got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { asked++; return nil, broken }}, nil)
		if !errors.Is(got.Err, broken) || asked != 1 || len(g.asked) != 1 {
			t.Errorf("%v, the target was asked for %d times, the guest %v", got.Err, asked, g.asked)
		}
		s.Close()
	})
}

// repeated is an endless archive of the same entry.
func repeated(entry []byte) iter.Seq[[]byte] {
	block := bytes.Repeat(entry, 1+200_000/len(entry))
	return func(yield func([]byte) bool) {
		for yield(block) {
		}
	}
}

func folderEntry() []byte {
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./"}); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// endlessly sends what a sequence yields, until nobody reads it any more.
type endlessly struct {
	next func() ([]byte, bool)
	rest []byte
	n    int64
}

func (e *endlessly) SetReadDeadline(time.Time) error { return nil }

func (e *endlessly) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		e.rest, _ = e.next()
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	e.n += int64(n)
	return n, nil
}

// Whatever an archive is full of, it ends, with the name of the limit, and there is no second try.
func TestTheLimitsOnArchives(t *testing.T) {
	limits := domain.Limits{ListEntries: 1000, ListBytes: 100_000, FolderBytes: 1 << 20, ArtifactBytes: 1 << 19}
	without := func(packed []byte) []byte { return packed[:len(packed)-1024] } // its end
	entry := func(name, content string) []byte { return without(pack(map[string]string{name: content})) }
	each := func(makeOne func(i int) []byte) iter.Seq[[]byte] {
		return func(yield func([]byte) bool) {
			for i := 0; yield(makeOne(i)); i++ {
			}
		}
	}
	long := entry(strings.Repeat("n", 200), "")[:1024] // the header of a long name, for nothing
	for name, test := range map[string]struct {
		data  iter.Seq[[]byte]
		limit string
		most  int64 // bytes that are read
	}{
		"files":                 {each(func(i int) []byte { return entry(fmt.Sprint(i), "x") }), "ListEntries", 2 << 20},
		"the same file":         {repeated(entry("a", "")), "ListEntries", 2 << 20},
		"names that can't be":   {repeated(entry("../a", "")), "ListEntries", 2 << 20},
		"failures":              {each(func(i int) []byte { return entry(fmt.Sprint(i), "gone") }), "ListEntries", 4 << 20},
		"folders":               {repeated(folderEntry()), "ListBytes", 1 << 20},
		"headers of nothing":    {repeated(slices.Concat(bytes.Repeat(long, 60), entry("../a", ""))), "ListBytes", 1 << 20},
		"long names":            {each(func(i int) []byte { return entry(fmt.Sprint(i, strings.Repeat("n/", 1900), "n"), "") }), "ListBytes", 1 << 20},
		"content":               {each(func(i int) []byte { return entry(fmt.Sprint(i), strings.Repeat("x", 100_000)) }), "FolderBytes", 3 << 20},
		"content for nobody":    {repeated(entry("../a", strings.Repeat("x", 100_000))), "FolderBytes", 3 << 20},
		"one that is too large": {repeated(entry("../a", strings.Repeat("x", 1<<20))), "ArtifactBytes", 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logged bytes.Buffer
				s := newService(t, func(c *host.Config) { c.Limits = limits; c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
				greet(t, s, domain.FeatureTar)
				next, stop := iter.Pull(test.data)
				defer stop()
				b := &endlessly{next: next}
				replied := make(chan error, 1)
				g := &streams{archive: func(api ports.GuestAPI, id domain.ActionID) error {
					replied <- api.Archive(t.Context(), id, ports.ArchiveReply{Body: b, Decode: wire.DecodeArchive})
					return nil
				}}
				go g.serve(t.Context(), s)
				target := &folder{}
				got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, nil)
				err := <-replied
				limit, ok := errors.AsType[*domain.LimitError](err)
				if !ok || limit.Limit != test.limit {
					t.Errorf("the guest is told %v", err)
				}
				if test.limit != "ArtifactBytes" { // then the others are fetched
					wantError(t, got.Err, []error{domain.ErrNonFatalInternalError}, test.limit)
					if len(g.asked) != 1 {
						t.Errorf("the guest was asked %v", g.asked)
					}
				}
				if b.n > test.most+128<<10 || target.left() != 0 {
					t.Errorf("%d bytes were read, %d files are open", b.n, target.left())
				}
				s.Close()
			})
		})
	}
}

// What is well meets no limit: as many entries as are allowed, with long names, folders and failures.
func TestExactlyTheLimitsOfArchivesAreFine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := make(map[string]string)
		names := 0
		for i := range 500 {
			name := fmt.Sprintf("a folder with a long name/%s/%03d", strings.Repeat("n", 100), i)
			content[name] = "x"
			names += len(name)
		}
		s, target := newService(t, func(c *host.Config) {
			c.Limits = domain.Limits{ListEntries: 500, ListBytes: int64(names), FolderBytes: 500, ArtifactBytes: 1}
		}), &folder{}
		greet(t, s, domain.FeatureTar)
		g := &streams{content: content, archive: func(api ports.GuestAPI, id domain.ActionID) error {
			return api.Archive(t.Context(), id, sent(pack(content), io.EOF))
		}}
		go g.serve(t.Context(), s)
		got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, nil)
		if got.Err != nil || got.Files != 500 || len(g.asked) != 1 {
			t.Errorf("%d files came, asked %v: %v", got.Files, g.asked, got.Err)
		}
		s.Close()
	})
}

// One file that is too large keeps nothing else from coming.
func TestATooLargeFileOfAnArchive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &streams{content: map[string]string{"a": "1", "b": strings.Repeat("x", 1000), "c": "3"}}
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			return api.Archive(t.Context(), id, sent(pack(g.content), io.EOF))
		}
		s, target := newService(t, func(c *host.Config) { c.Limits.ArtifactBytes = 999 }), &folder{}
		greet(t, s, domain.FeatureTar)
		go g.serve(t.Context(), s)
		got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, nil)
		wantError(t, got.Err, []error{domain.ErrNonFatalInternalError}, "ArtifactBytes", `"/f/b"`)
		if got.Files != 2 || g.was("get-artifact /f/b") > 0 || g.was("get-artifact /f/c") != 1 {
			t.Errorf("%d files came, asked %v", got.Files, g.asked)
		}
		s.Close()
	})
}

// DiskFree holds for folders, in a stream and file by file. A storage that stood before another, to count, hid
// that it could tell its space.
func TestAFolderLeavesTheDiskSomeRoom(t *testing.T) {
	for _, features := range []domain.Features{nil, {domain.FeatureTar}} {
		synctest.Test(t, func(t *testing.T) {
			const unit = 80 << 10 // more than is handed over whole
			g := &streams{content: make(map[string]string)}
			for i := range 40 {
				g.content[fmt.Sprintf("%02d", i)] = strings.Repeat("x", unit)
			}
			g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
				return api.Archive(t.Context(), id, sent(pack(g.content), io.EOF))
			}
			s := newService(t, func(c *host.Config) { c.Limits.DiskFree = 90 * unit })
			greet(t, s, features...)
			go g.serve(t.Context(), s)
			d := &sharedDisk{size: 100 * unit}
			got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return d, nil }}, nil)
			wantError(t, got.Err, []error{domain.ErrStorage}, "the limit DiskFree keeps", "not tried")
			if d.written.Load() > 18*unit || got.Files == 0 { // eight that look at the same time see the same
				t.Errorf("%v: %d units were written, %d files are there", features, d.written.Load()/unit, got.Files)
			}
			s.Close()
			d = &sharedDisk{size: 100 * unit}
			err := extractTo(t, t.Context(), d, g, domain.Limits{DiskFree: 90 * unit}, features, func(string, io.ReadSeeker) error { return nil })
			wantError(t, err, []error{domain.ErrNonFatalInternalError, domain.ErrStorage}, "the limit DiskFree keeps")
		})
	}
}

// sharedDisk is a folder on a disk that fills up.
type sharedDisk struct {
	memory
	size    int64
	written atomic.Int64
}

func (d *sharedDisk) File(string) ports.Storage { return d }

func (d *sharedDisk) Space() (free, all int64, err error) {
	return d.size - d.written.Load(), d.size, nil
}

func (d *sharedDisk) Create(size int64) (ports.Upload, error) {
	upload, err := d.memory.Create(size)
	return sharedUpload{upload, d}, err
}

type sharedUpload struct {
	ports.Upload
	disk *sharedDisk
}

func (u sharedUpload) Write(p []byte) (int, error) {
	u.disk.written.Add(int64(len(p)))
	return len(p), nil // kept nowhere
}
