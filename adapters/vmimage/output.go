package vmimage

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// checkOutput tells why a folder can't be made. A link isn't one: it would be lost, or lead nowhere.
func checkOutput(dir string) error {
	if dir == "" {
		return nil
	}
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("the folder to make: %w", err)
	case info.Mode().Type() == os.ModeSymlink:
		return fmt.Errorf("the folder to make, %s, is a symbolic link: name the folder itself", domain.Quote(dir))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("the folder to make: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("the folder %s is there already, and not empty: remove it, or name another", domain.Quote(dir))
	}
	return nil
}

// write makes the image in a folder beside the one to make, and gives it its name once it is whole.
func (c BuildConfig) write(ctx context.Context, t tree, kernel []byte, definition Definition) (image Image, err error) {
	output, err := filepath.Abs(c.Output)
	if err != nil {
		return Image{}, err
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return Image{}, err
	}
	if err := removeAbandoned(output, time.Now().Add(-abandoned)); err != nil {
		return Image{}, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(output), unfinished(output)+"*")
	if err != nil {
		return Image{}, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	if err := fill(ctx, dir, t, kernel, definition); err != nil {
		return Image{}, err
	}
	// What came to be there since it was looked for is kept.
	if err := syscall.Rmdir(output); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Image{}, fmt.Errorf("the folder to make: %w", &os.PathError{Op: "rmdir", Path: output, Err: err})
	}
	if err := os.Rename(dir, output); err != nil {
		return Image{}, err
	}
	return Read(output)
}

// fill writes an image into a folder.
func fill(ctx context.Context, dir string, t tree, kernel []byte, definition Definition) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, kernelName), kernel, 0o644); err != nil {
		return err
	}
	if err := writeInitrd(ctx, filepath.Join(dir, initrdName), t); err != nil {
		return fmt.Errorf("the initramfs: %w", err)
	}
	if err := Write(dir, definition); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func writeInitrd(ctx context.Context, name string, t tree) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	packed := gzip.NewWriter(file)
	if err := t.archive(writerUntil{ctx, packed}); err != nil {
		return err
	}
	return errors.Join(packed.Close(), file.Close())
}

// writerUntil takes nothing any more once ctx has ended.
type writerUntil struct {
	ctx context.Context
	to  io.Writer
}

func (w writerUntil) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.to.Write(p)
}

// abandoned is how old an unfinished image is whose build was killed: none takes as long.
const abandoned = 24 * time.Hour

// unfinished is what the names of an image's folders begin with while it is being built; digits follow.
func unfinished(output string) string { return "." + filepath.Base(output) + "." }

// removeAbandoned removes what builds of the same image have left that were killed before a time.
func removeAbandoned(output string, before time.Time) error {
	above := filepath.Dir(output)
	entries, err := os.ReadDir(above)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		number, ours := strings.CutPrefix(entry.Name(), unfinished(output))
		if !ours || number == "" || strings.Trim(number, "0123456789") != "" || !entry.IsDir() {
			continue
		}
		info, err := entry.Info()
		if err != nil || !info.ModTime().Before(before) { // gone, or in the making
			continue
		}
		if err := os.RemoveAll(filepath.Join(above, entry.Name())); err != nil {
			return fmt.Errorf("an image that was never finished can't be removed: %w", err)
		}
	}
	return nil
}
