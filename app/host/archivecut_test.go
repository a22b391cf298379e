package host_test

import (
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hexworker/metaservice/app/host"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// What came of a file before its stream was cut was counted as a part of the folder, and then once more with the
// file: a folder within Limits.FolderBytes was refused.
func TestWhatWasCutIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &streams{content: map[string]string{"a": "1", "b": strings.Repeat("x", 3<<20)}}
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			packed := pack(g.content)
			return api.Archive(t.Context(), id, sent(packed[:len(packed)-2000], io.EOF))
		}
		s, target := newService(t, func(c *host.Config) { c.Limits.FolderBytes = 3<<20 + 1 }), &folder{}
		greet(t, s, domain.FeatureTar)
		go g.serve(t.Context(), s)
		var last host.Progress
		got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, func(p host.Progress) { last = p })
		if got.Err != nil || got.Files != 2 || got.Bytes != 3<<20+1 || last.Bytes != got.Bytes {
			t.Errorf("%d files of %d bytes came, %d as progress tells: %v", got.Files, got.Bytes, last.Bytes, got.Err)
		}
		s.Close()
	})
}

// Limits as large as can be said are none, and don't overflow.
func TestEndlessLimitsOnArchives(t *testing.T) {
	for _, features := range []domain.Features{nil, {domain.FeatureTar}} {
		synctest.Test(t, func(t *testing.T) {
			g := &streams{content: someFiles()}
			g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
				return api.Archive(t.Context(), id, sent(pack(g.content), io.EOF))
			}
			s, target := newService(t, func(c *host.Config) {
				c.Limits = domain.Limits{ArtifactBytes: math.MaxInt64, FolderBytes: math.MaxInt64, ListEntries: math.MaxInt64, ListBytes: math.MaxInt64}
			}), &folder{}
			greet(t, s, features...)
			go g.serve(t.Context(), s)
			got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, nil)
			if got.Err != nil || got.Files != len(g.content) {
				t.Errorf("%d files came: %v", got.Files, got.Err)
			}
			s.Close()
		})
	}
}

// A folder that goes away amid its stream is not one that was never there.
func TestAFolderThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, target := newService(t, nil), &folder{}
		greet(t, s, domain.FeatureTar)
		go func() {
			packed := pack(map[string]string{"a": "1", "b": "2"})
			s.Archive(t.Context(), take(t, s).ID(), sent(packed[:1024], io.EOF))
			s.Folder(t.Context(), take(t, s).ID(), ports.FolderReply{Body: text(`{"notFound":true}`), Size: -1, Decode: decodeJSON})
		}()
		got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, nil)
		wantError(t, got.Err, []error{domain.ErrResourceNotFound}, "broke off")
		if got.Missing || got.Files != 1 {
			t.Errorf("%d files came, missing %t", got.Files, got.Missing)
		}
		s.Close()
	})
}

// A name that can't be kept is one name, in however many ways it was told.
func TestARefusedNameOfACutStreamCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := strings.Repeat("n", 256)
		g := &streams{content: map[string]string{"a": "1", long: "2", "z": "3"}}
		g.archive = func(api ports.GuestAPI, id domain.ActionID) error {
			packed := pack(g.content)
			return api.Archive(t.Context(), id, sent(packed[:len(packed)-1024], io.EOF))
		}
		s, target := newService(t, nil), &folder{}
		greet(t, s, domain.FeatureTar)
		go g.serve(t.Context(), s)
		got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, nil)
		if got.Files != 2 || got.Refused != 1 {
			t.Errorf("%d files came, %d names are refused: %v", got.Files, got.Refused, got.Err)
		}
		s.Close()
	})
}

// A file that the guest has named, and that is gone when its stream has broken off, would have been told by nobody:
// the list doesn't have it either.
func TestAFileThatGoesAwayAmidItsStreamIsTold(t *testing.T) {
	for what, archive := range map[string][]byte{
		"in parts": pack(map[string]string{"a": "1", "b": strings.Repeat("x", 200_000)})[:100_000],
		"apart":    pack(map[string]string{"a": "1", "b": "!apart"})[:3000],
	} {
		synctest.Test(t, func(t *testing.T) {
			s, target := newService(t, nil), &folder{}
			greet(t, s, domain.FeatureTar)
			go func() {
				s.Archive(t.Context(), take(t, s).ID(), sent(archive, io.EOF))
				s.Folder(t.Context(), take(t, s).ID(), ports.FolderReply{Body: text(`{"files":["/f/a"]}`), Size: -1, Decode: decodeJSON})
				if a := take(t, s); a.Kind() == domain.KindGetArtifact {
					s.Artifact(t.Context(), a.ID(), ports.ArtifactReply{Body: text(""), Error: "file-not-found"})
				}
			}()
			got := s.Collect(t.Context(), host.Wanted{Path: "/f", Folder: func() (ports.Folder, error) { return target, nil }}, nil)
			wantError(t, got.Err, []error{domain.ErrResourceNotFound}, `"/f/b"`)
			if got.Files != 1 || target.left() != 0 {
				t.Errorf("%s: %d files came, %d are open", what, got.Files, target.left())
			}
			s.Close()
		})
	}
}
