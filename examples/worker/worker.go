package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hexworker/metaservice"
)

// Result is a line of the output. Each line of the input has one.
type Result struct {
	ID        string   `json:"id"`
	Status    string   `json:"status"` // a metaservice.Status, or "returned", "rejected" or "error"
	ExitCode  *int     `json:"exitCode,omitempty"`
	Artifacts []string `json:"artifacts,omitempty"` // files below the task's folder
	Error     string   `json:"error,omitempty"`
}

const (
	returned = "returned" // the worker ends, and has not begun with it
	rejected = "rejected" // it can't be run, now or later
	failed   = "error"    // not by its own doing
)

const (
	// killTime is how long a guest may take to end a task that it is asked to, and to have its files
	// brought out; then it is given up.
	killTime = 20 * time.Second
	// quiet is for how long nothing may have come on the input for a worker that ends to believe that
	// nothing is on its way.
	quiet = 250 * time.Millisecond
	// listening is how long it waits for that at most: what is written later stays with whoever writes it.
	listening = time.Second
	// maxLine is the longest line: the longest payload, and some room.
	maxLine = metaservice.MaxPayload + 64<<10
)

// Worker runs tasks. It never has more of them than it can run: the others stay on its input.
type Worker struct {
	options Options
	engine  metaservice.Engine
	input   *input
	tasks   chan Task
	inputOK chan struct{} // closed at the input's end
	running sync.WaitGroup
	done    chan struct{} // closed when all that was taken is answered, and no more comes

	drain    func() // once: take no more
	draining chan struct{}
	kill     context.Context // ends when the grace of running tasks does
	killNow  context.CancelFunc
	hurry    context.Context // ends when they are given up
	hurryNow context.CancelFunc

	mu     sync.Mutex // guards what follows
	output *json.Encoder
	broken error // of the input or the output
}

// NewWorker starts nothing.
func NewWorker(options Options, engine metaservice.Engine, tasks io.Reader, results io.Writer) *Worker {
	w := &Worker{
		options: options, engine: engine, input: newInput(tasks), output: json.NewEncoder(results),
		tasks: make(chan Task), inputOK: make(chan struct{}), done: make(chan struct{}), draining: make(chan struct{}),
	}
	w.drain = sync.OnceFunc(func() { close(w.draining) })
	w.kill, w.killNow = context.WithCancel(context.Background())
	w.hurry, w.hurryNow = context.WithCancel(context.Background())
	return w
}

// Start begins to take tasks.
func (w *Worker) Start(context.Context) error {
	go w.read() // ends with the input, or the process: nothing ends a read of a pipe that stays silent
	for range w.options.AtOnce {
		w.running.Go(w.work)
	}
	go func() { // ends with the others
		w.running.Wait()
		close(w.done)
	}()
	return nil
}

// Done is closed when all tasks have come to their end.
func (w *Worker) Done() <-chan struct{} { return w.done }

// ExitCode is 1 where a task or a result was lost: the input or the output broke.
func (w *Worker) ExitCode() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return 1
	}
	return 0
}

// Drain takes no more tasks, gives back those that wait, and ends those that run: after their grace they
// are killed, and given up where even that takes too long. It returns when all are answered.
func (w *Worker) Drain(ctx context.Context) error {
	w.drain()
	grace := time.AfterFunc(w.options.Grace, w.killNow)
	defer grace.Stop()
	late := time.AfterFunc(w.options.Grace+killTime, w.hurryNow)
	defer late.Stop()
	defer context.AfterFunc(ctx, w.hurryNow)()
	w.awaitQuiet()
	<-w.done // once in a hurry, nothing waits for a guest
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

// awaitQuiet waits until all that was written to the input is read: whoever wrote it can't take it back.
// Where lines keep coming, it ends the reading, so that the engine has time to end too. What was read is
// answered when it returns, unless there is a hurry.
func (w *Worker) awaitQuiet() {
	still := time.NewTimer(quiet)
	defer still.Stop()
	enough := time.NewTimer(listening)
	defer enough.Stop()
	for listen := true; listen; {
		select {
		case <-w.inputOK:
			return
		case <-w.input.heard:
			still.Reset(quiet)
		case <-still.C:
			listen = false
		case <-enough.C:
			listen = false
		case <-w.hurry.Done():
			listen = false
		}
	}
	w.input.end()
	select {
	case <-w.inputOK:
	case w.input.busy <- struct{}{}: // the reader waits for more
		<-w.input.busy
	case <-w.hurry.Done():
	}
}

// read reads tasks as long as there is somebody to run them, or to give them back.
func (w *Worker) read() {
	defer close(w.inputOK)
	defer close(w.tasks)
	lines := bufio.NewReaderSize(w.input, 64<<10)
	seen := newMemory(remembered)
	for {
		line, err := nextLine(lines)
		switch {
		case errors.Is(err, errTooLong):
			w.answer(Result{Status: rejected, Error: err.Error()})
			continue
		case errors.Is(err, io.EOF), errors.Is(err, errEnded):
			return
		case err != nil:
			w.broke(fmt.Errorf("the tasks can't be read on: %w", err))
			return
		}
		task, err := parse(line, seen)
		if err != nil {
			w.answer(Result{ID: task.ID, Status: rejected, Error: err.Error()})
			continue
		}
		select {
		case <-w.draining:
			w.giveBack(task)
			continue
		default:
		}
		select {
		case w.tasks <- task:
		case <-w.draining:
			w.giveBack(task)
		}
	}
}

func (w *Worker) giveBack(task Task) { w.answer(Result{ID: task.ID, Status: returned}) }

// work runs one task after the other.
func (w *Worker) work() {
	for {
		select {
		case <-w.draining:
			return
		case task, ok := <-w.tasks:
			if !ok {
				return
			}
			select {
			case <-w.draining: // both happened at once
				w.giveBack(task)
			default:
				w.answer(w.run(task))
			}
		}
	}
}

func (w *Worker) answer(result Result) {
	w.mu.Lock()
	err := w.output.Encode(result)
	w.mu.Unlock()
	if err != nil {
		w.broke(fmt.Errorf("the result of %s can't be written: %w", result.ID, err))
	}
}

// broke notes that nobody would hear of more results, or that no more tasks can be read.
func (w *Worker) broke(err error) {
	w.mu.Lock()
	w.broken = errors.Join(w.broken, err)
	w.mu.Unlock()
	w.drain()
}
