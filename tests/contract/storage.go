package contract

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/hexworker/metaservice/ports"
)

// Storage is the contract of ports.Storage. newStorage returns an empty one, and a function that
// counts the files which are there: committed ones that are still open may count or not, anything
// else must not.
func Storage(t *testing.T, newStorage func(t *testing.T) (storage ports.Storage, left func() int)) {
	for _, size := range []int{1 << 10, 1 << 18} { // what is small may be kept otherwise
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			storageOf(t, bytes.Repeat([]byte("0123456789abcdef"), size/16), newStorage)
		})
	}
}

func storageOf(t *testing.T, content []byte, newStorage func(t *testing.T) (ports.Storage, func() int)) {
	t.Run("commit gives what was written, from its start", func(t *testing.T) {
		storage, _ := newStorage(t)
		upload := create(t, storage)
		defer upload.Close()
		for _, part := range [][]byte{content[:1], content[1:700], content[700:]} {
			if n, err := upload.Write(part); n != len(part) || err != nil {
				t.Fatalf("Write: %d, %v", n, err)
			}
		}
		file, err := upload.Commit()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("read %d bytes, %v, of %d", len(got), err, len(content))
		}
		if at, err := file.Seek(-16, io.SeekEnd); err != nil || at != int64(len(content))-16 {
			t.Fatalf("Seek: %d, %v", at, err)
		}
		if got, err := io.ReadAll(file); err != nil || string(got) != "0123456789abcdef" {
			t.Fatalf("read %q, %v", got, err)
		}
	})

	t.Run("an empty file is a file", func(t *testing.T) {
		storage, _ := newStorage(t)
		upload := create(t, storage)
		defer upload.Close()
		file, err := upload.Commit()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if got, err := io.ReadAll(file); err != nil || len(got) != 0 {
			t.Fatalf("read %q, %v", got, err)
		}
	})

	t.Run("closing before commit leaves nothing", func(t *testing.T) {
		storage, left := newStorage(t)
		upload := create(t, storage)
		if _, err := upload.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := upload.Close(); err != nil {
			t.Fatal(err)
		}
		if n := left(); n != 0 {
			t.Fatalf("%d files are left", n)
		}
		if _, err := upload.Commit(); err == nil {
			t.Fatal("a closed upload was committed")
		}
		if n := left(); n != 0 {
			t.Fatalf("%d files are left after a commit that failed", n)
		}
	})

	t.Run("closing after commit does nothing", func(t *testing.T) {
		storage, _ := newStorage(t)
		upload := create(t, storage)
		if _, err := upload.Write(content); err != nil {
			t.Fatal(err)
		}
		file, err := upload.Commit()
		if err != nil {
			t.Fatal(err)
		}
		if err := upload.Close(); err != nil {
			t.Fatalf("Close after Commit: %v", err)
		}
		if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("after the upload's Close, read %d bytes, %v", len(got), err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("a second commit is an error, and harms nothing", func(t *testing.T) {
		storage, _ := newStorage(t)
		upload := create(t, storage)
		defer upload.Close()
		if _, err := upload.Write(content); err != nil {
			t.Fatal(err)
		}
		file, err := upload.Commit()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := upload.Commit(); err == nil {
			t.Fatal("an upload was committed twice")
		}
		if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
	})
}

func create(t *testing.T, storage ports.Storage) ports.Upload {
	t.Helper()
	upload, err := storage.Create(-1)
	if err != nil {
		t.Fatal(err)
	}
	return upload
}
