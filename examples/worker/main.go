// Command worker is an example of a worker on metaservice: it reads tasks as lines of JSON, runs some of
// them at a time through the engine that fx gives it, and writes a line of JSON for each. README.md tells
// how to use it.
package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"

	"github.com/hexworker/metaservice"
)

// Options are what the command line tells.
type Options struct {
	AtOnce     int
	Folder     string        // where logs and artifacts go
	Grace      time.Duration // for tasks that run when the worker is asked to end
	GuestTools string
}

func main() {
	var options Options
	flag.IntVar(&options.AtOnce, "at-once", 4, "how many tasks run at a time")
	flag.StringVar(&options.Folder, "out", "out", "the folder for logs and artifacts")
	flag.DurationVar(&options.Grace, "grace", 10*time.Second, "how long running tasks may go on after SIGTERM")
	flag.StringVar(&options.GuestTools, "guest-tools", "", "the path of guest-tools; by default beside this program, or on PATH")
	flag.Parse()
	if flag.NArg() > 0 || options.AtOnce < 1 || options.Grace < 0 {
		fmt.Fprintln(os.Stderr, "worker: tasks come on standard input; -at-once must be 1 at least, and -grace not negative")
		os.Exit(2)
	}
	if err := os.MkdirAll(options.Folder, 0o777); err != nil {
		fmt.Fprintf(os.Stderr, "worker: the output folder can't be made: %v\n", err)
		os.Exit(1)
	}
	newApp(options, os.Stdin, os.Stdout).Run() // which ends at SIGTERM, SIGINT, or the end of the tasks
}

func newApp(options Options, tasks io.Reader, results io.Writer) *fx.App {
	return fx.New(
		metaservice.Module,
		fx.Supply(options, metaservice.Config{MaxConcurrency: options.AtOnce, GuestTools: options.GuestTools}),
		fx.Provide(
			func() *slog.Logger {
				return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			},
			func(options Options, engine metaservice.Engine) *Worker {
				return NewWorker(options, engine, tasks, results)
			},
		),
		fx.WithLogger(func(log *slog.Logger) fxevent.Logger { return &fxevent.SlogLogger{Logger: log} }),
		fx.StopTimeout(options.Grace+killTime+20*time.Second), // the engine needs some of it, too
		fx.Invoke(func(life fx.Lifecycle, worker *Worker, app fx.Shutdowner) {
			life.Append(fx.Hook{
				OnStart: worker.Start,
				OnStop:  worker.Drain, // before the engine's own end: hooks run in reverse
			})
			go func() { // ends with the worker
				<-worker.Done()
				_ = app.Shutdown(fx.ExitCode(worker.ExitCode()))
			}()
		}),
	)
}
