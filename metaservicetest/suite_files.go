package metaservicetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
)

func (s *suite) file() {
	long := strings.Repeat("0123456789abcdef", 5000)
	result, _ := s.run(EngineTask{Behaviour: Behaviour{
		Files:    map[string]string{"out/ünï code": "content", "out/empty": "", "long": long},
		ExitCode: 1, // files of a failed task are what one wants most
	}})
	s.content(result, "out/ünï code", "content")
	s.content(result, "out/empty", "")
	s.content(result, "long", long)
	for what, path := range map[string]string{
		"a file that isn't there": "out/none", "a file below a file": "long/x", "a folder": "out",
	} {
		file, err := result.ExtractFile(s.ctx, path)
		s.is(what, err, domain.ErrResourceNotFound)
		if file != nil {
			s.Errorf("%s: beside its error there is a file", what)
		}
	}
	s.content(result, "out/empty", "") // an error ends nothing
	s.disposeResult(result)
}

func (s *suite) folder() {
	files := map[string]string{"a": "1", "b c": "2", "deep/er/ü": "3", "deep/er/empty": ""}
	written := map[string]string{"beside": "not this one"}
	for name, content := range files {
		written["out/"+name] = content
	}
	result, _ := s.run(EngineTask{Behaviour: Behaviour{Files: written}})
	for _, path := range []string{"out", "out/", "./out"} {
		var mu sync.Mutex
		got := make(map[string]string)
		err := result.ExtractFolder(s.ctx, path, func(name string, file io.ReadSeeker) error {
			content, err := io.ReadAll(file)
			mu.Lock()
			defer mu.Unlock()
			if _, twice := got[name]; twice {
				return fmt.Errorf("%q came twice", name)
			}
			got[name] = string(content)
			return err
		})
		if err != nil || !maps.Equal(got, files) {
			s.Errorf("the folder %q came as %q, %v; want %q", path, got, err, files)
		}
	}
	unwanted := func(name string, _ io.ReadSeeker) error { return fmt.Errorf("%q came", name) }
	s.is("a folder that isn't there", result.ExtractFolder(s.ctx, "none", unwanted), domain.ErrResourceNotFound)
	s.is("a file as a folder", result.ExtractFolder(s.ctx, "out/a", unwanted), domain.ErrResourceNotFound)
	s.disposeResult(result)
}

// manyFiles is a task with so many files in out.
func manyFiles(n int) EngineTask {
	files := make(map[string]string)
	for i := range n {
		files[fmt.Sprintf("out/%d", i)] = "x"
	}
	return EngineTask{Behaviour: Behaviour{Files: files}}
}

func (s *suite) folderStops() {
	const n = 40
	result, _ := s.run(manyFiles(n))
	enough := errors.New("enough of it")
	var mu sync.Mutex
	calls := 0
	err := result.ExtractFolder(s.ctx, "out", func(string, io.ReadSeeker) error {
		mu.Lock()
		defer mu.Unlock()
		calls++
		return enough
	})
	s.is("a handler that stops", err, domain.ErrHandlerInterrupt)
	s.is("a handler that stops", err, enough)
	mu.Lock()
	if calls == 0 || calls >= n {
		s.Errorf("the handler stopped at once, and was called %d times for %d files", calls, n)
	}
	mu.Unlock()
	s.content(result, "out/0", "x") // the guest is there still
	s.disposeResult(result)
}

// folderAtOnce has the first handler wait for the second.
func (s *suite) folderAtOnce() {
	result, _ := s.run(manyFiles(8))
	entered := make(chan struct{}, 8)
	err := result.ExtractFolder(s.ctx, "out", func(string, io.ReadSeeker) error {
		entered <- struct{}{}
		for len(entered) < 2 {
			select {
			case <-s.ctx.Done():
				return errors.New("no other file came meanwhile")
			case <-time.After(time.Millisecond):
			}
		}
		return nil
	})
	if err != nil {
		s.Errorf("ExtractFolder: %v", err)
	}
	s.disposeResult(result)
}

func (s *suite) filesGivenUp() {
	result, _ := s.run(manyFiles(20))
	gone := errors.New("nobody wants it any more")
	ctx, cancel := context.WithCancelCause(s.ctx)
	err := result.ExtractFolder(ctx, "out", func(string, io.ReadSeeker) error {
		cancel(gone)
		return nil
	})
	s.is("a folder that is given up", err, gone)
	_, err = result.ExtractFile(ctx, "out/0")
	s.is("a file that is given up", err, gone)
	s.content(result, "out/0", "x")
	s.disposeResult(result)
}
