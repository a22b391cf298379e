//go:build unix

package vmimage_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/adapters/vmimage"
)

// countdown is a context that ends once it has been asked so often whether it has.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// A build that is told to stop does, wherever it is, and leaves nothing.
func TestABuildCanBeStoppedAnywhere(t *testing.T) {
	k := newKit(t)
	stops := 0
	for ; ; stops++ {
		_, err := vmimage.Build(&countdown{t.Context(), stops}, k.config)
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d questions: %v", stops, err)
		}
		if left, _ := os.ReadDir(k.at("out")); len(left) > 0 {
			t.Fatalf("after %d questions it left %v", stops, left)
		}
	}
	if stops < 20 { // files, modules, and pieces of the initramfs
		t.Errorf("it could be stopped in %d places alone", stops)
	}
}

// A link in place of the folder to make was once replaced by it, where it led to an empty one.
func TestALinkIsNoFolderToMake(t *testing.T) {
	for name, make := range map[string]func(k *kit){
		"to an empty folder": func(k *kit) { must(k.t, os.Mkdir(k.at("target"), 0o755)) },
		"to nothing":         func(*kit) {},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			make(k)
			k.config.Output = k.at("link")
			must(t, os.Symlink("target", k.config.Output))
			k.fails("link", "is a symbolic link: name the folder itself")
			if to, err := os.Readlink(k.config.Output); err != nil || to != "target" {
				t.Errorf("the link leads to %q, %v", to, err)
			}
		})
	}
	k := newKit(t)
	writeFiles(t, k.dir, map[string][]byte{"file": []byte("x")})
	k.config.Output = k.at("file")
	k.fails("the folder to make", "not a directory")
}

// A build that is killed can't clear away after itself: the next one of the same image does, a day later.
func TestWhatKilledBuildsLeft(t *testing.T) {
	k := newKit(t)
	old, recent := time.Now().Add(-25*time.Hour), time.Now().Add(-23*time.Hour)
	for name, at := range map[string]time.Time{
		".image.1": old, ".image.2": recent, ".image.x": old, ".image.": old, ".other.1": old, "image.1": old,
	} {
		writeFiles(t, k.at("out"), map[string][]byte{name + "/vmlinuz": []byte("x")})
		must(t, os.Chtimes(k.at("out/"+name), at, at))
	}
	writeFiles(t, k.at("out"), map[string][]byte{".image.3": []byte("x")})
	must(t, os.Chtimes(k.at("out/.image.3"), old, old))
	k.mustBuild()
	entries, err := os.ReadDir(k.at("out"))
	must(t, err)
	var left []string
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	if diff := cmp.Diff([]string{".image.", ".image.2", ".image.3", ".image.x", ".other.1", "image", "image.1"}, left); diff != "" {
		t.Error(diff)
	}
}
