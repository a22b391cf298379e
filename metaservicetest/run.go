package metaservicetest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing/fstest"

	"github.com/hexworker/metaservice/domain"
)

// Command plays a task's process, and returns its exit code. ctx ends with ErrKilled when the host ends
// the task, and when the guest is stopped.
type Command func(ctx context.Context, task Task) (exitCode int)

// Task is what a Command is given.
type Task struct {
	domain.Execute           // the command and its environment
	Log            io.Writer // what it prints
	Files          *Files    // the guest's, which the host may ask for
	Guest          *Guest    // for proxies, and what else there is
}

// ErrKilled is the cause with which a Command's context ends when the host ends its task.
var ErrKilled = errors.New("the host has ended the task")

// Run is the script of a guest as it should be: it asks what to run, plays it by command, streams the log,
// reports how it ended, and answers what the host asks for until it is stopped.
func Run(command Command) Script {
	return func(ctx context.Context, g *Guest) error {
		execute, err := g.Execute()
		if err != nil {
			return err
		}
		alive, kill := context.WithCancelCause(ctx)
		defer kill(nil)
		ended := make(chan struct{})
		files := new(Files)
		g.ServeActions(files, func() {
			kill(ErrKilled)
			select {
			case <-ended:
			case <-ctx.Done():
			}
		})
		log := g.OpenLog()
		code := command(alive, Task{Execute: execute, Log: log, Files: files, Guest: g})
		report := domain.Report{ExitCode: code, Reason: domain.ReasonExited}
		if errors.Is(context.Cause(alive), ErrKilled) {
			report = domain.Report{ExitCode: domain.ExitSignaled(9), Signal: "SIGKILL", Reason: domain.ReasonKilled}
		}
		close(ended)
		logErr := log.Close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if logErr != nil {
			report.Message = "the log was not delivered whole: " + logErr.Error()
		}
		return g.Resolve(domain.Result{Success: report.Succeeded(), Report: &report})
	}
}

// Files are a guest's files in memory: an fs.FS to which files can be added at any time. The zero Files
// has none. Safe for concurrent use.
type Files struct {
	mu    sync.RWMutex // guards files
	files fstest.MapFS
}

// Set puts a file there, or replaces it. The name is a guest's path: "out/x" and "/out/x" are the same.
func (f *Files) Set(name, content string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files = make(fstest.MapFS)
	}
	f.files[inFS(name)] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
}

// Remove takes a file away, or a folder with all that is in it.
func (f *Files) Remove(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = inFS(name)
	for other := range f.files {
		if other == name || strings.HasPrefix(other, name+"/") || name == "" {
			delete(f.files, other)
		}
	}
}

// Open implements fs.FS.
func (f *Files) Open(name string) (fs.File, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.files.Open(name)
}
