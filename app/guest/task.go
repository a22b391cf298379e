package guest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// terminal is how large the task's terminal is. Nobody looks at it, but programs fit their output to it.
var terminal = ports.TerminalSize{Columns: 80, Rows: 24}

// task is the one task's process, as those see it who may end it.
type task struct {
	decided chan struct{} // closed when it is known whether there is a process, if starting is set

	mu       sync.Mutex
	starting bool
	killed   bool // before it was started: it never is
	left     bool // nobody waits for its start any more: what comes of it is closed at once
	process  ports.Process
	log      *taskLog
}

// begin tells whether the task may be started still. If so, started must follow.
func (t *task) begin(log *taskLog) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.log = log
	t.starting = !t.killed
	return t.starting
}

// started tells what came of the start: nil is no process. One that comes too late is closed.
func (t *task) started(process ports.Process) {
	t.mu.Lock()
	t.process = process
	close(t.decided)
	late := t.left && process != nil
	t.mu.Unlock()
	if late {
		_ = process.Close() // Run has told already that it left something
	}
}

// errStarting is a start that wasn't waited for to its end: a file system may hold it up for ever.
var errStarting = errors.New("the task's command is still being started")

// await waits until it is known whether there is a process; nil is none.
func (t *task) await(ctx context.Context) (ports.Process, error) {
	t.mu.Lock()
	starting := t.starting
	t.mu.Unlock()
	if !starting {
		return nil, nil
	}
	select {
	case <-t.decided:
		return t.process, nil
	case <-ctx.Done():
	}
	select {
	case <-t.decided: // as it had been before: the hurry is no reason to leave it
		return t.process, nil
	default:
		return nil, errStarting
	}
}

// kill ends the tree, even where the command itself has ended; a task that wasn't started never is.
func (t *task) kill(ctx context.Context, grace time.Duration) ([]ports.Survivor, error) {
	t.mu.Lock()
	starting := t.starting
	t.killed = !starting
	t.mu.Unlock()
	if !starting {
		return nil, nil
	}
	process, err := t.await(ctx)
	if process == nil {
		return nil, err
	}
	return process.Kill(ctx, grace)
}

// note writes a line of ours into the task's log, if that is open.
func (t *task) note(line string) {
	t.mu.Lock()
	log := t.log
	t.mu.Unlock()
	if log != nil {
		log.note(line)
	}
}

// close ends what is left of the tree. A start that takes longer than ctx is left to itself: what comes
// of it is closed as soon as it is there.
func (t *task) close(ctx context.Context) error {
	process, err := t.await(ctx)
	if err != nil {
		t.mu.Lock()
		process, t.left = t.process, true
		t.mu.Unlock()
	}
	if process == nil {
		return err
	}
	return process.Close()
}

// run runs the task and reports its result. A task that is cut short by the end of ctx isn't reported.
// stop ends all of it, however far it is; a process is Run's to close.
func (g *Guest) run(ctx, stop context.Context, execute domain.Execute) {
	log := newTaskLog(g.config.Host, g.link, g.log)
	var report domain.Report
	if g.task.begin(log) {
		report = g.runProcess(stop, log, execute)
	} else {
		report = domain.Report{
			ExitCode: domain.ExitSignaled(9),
			Reason:   domain.ReasonKilled,
			Message:  "it was killed before it was started",
		}
		log.note(report.Message)
		log.end()
	}
	cut := ctx.Err() != nil // before the log is through: what ends while that takes isn't cut short
	whole := true
	if err := log.await(stop); err != nil {
		g.log.Warn("the log was not delivered whole", "error", err)
		whole = false
		add(&report, "the log was not delivered whole: "+err.Error())
	}
	if err := log.wasCut(); err != nil {
		g.log.Warn("the log is not all that the task wrote", "error", err)
		add(&report, err.Error())
	}
	if cut {
		g.log.Warn("the task was cut short, its result is not reported")
		return
	}
	g.log.Info("the task has ended", "report", report.String())
	g.resolve(stop, report, whole)
}

// add adds to what a report says in words.
func add(report *domain.Report, words string) {
	if report.Message != "" {
		words = report.Message + "; " + words
	}
	report.Message = domain.Cut(words)
}

// refuse reports a task that no system could run.
func (g *Guest) refuse(stop context.Context, why error) {
	log := newTaskLog(g.config.Host, g.link, g.log)
	report := g.startFailed(log, why)
	if err := log.await(stop); err != nil {
		g.log.Warn("the log was not delivered whole", "error", err)
	}
	g.resolve(stop, report, false)
}

// runProcess starts the command, and returns when it has ended. Its output goes on into the log for as
// long as there is any.
func (g *Guest) runProcess(stop context.Context, log *taskLog, execute domain.Execute) domain.Report {
	spec, err := g.spec(execute)
	var process ports.Process
	if err == nil {
		process, err = g.config.Processes.Start(spec)
	}
	if err != nil {
		g.task.started(nil)
		return g.startFailed(log, err)
	}
	g.task.started(process)
	log.pump(process.Output())
	report, err := process.Wait(stop)
	if err != nil {
		return domain.Report{ExitCode: domain.ExitSignaled(9), Reason: domain.ReasonKilled, Message: err.Error()}
	}
	return report
}

// startFailed is a command that can't be started: a failed task with a line in its log that says why.
func (g *Guest) startFailed(log *taskLog, err error) domain.Report {
	log.note(err.Error())
	log.end()
	return startReport(err)
}

// startReport is the report on a command that can't be started.
func startReport(err error) domain.Report {
	report := domain.Report{ExitCode: domain.ExitNotExecutable, Reason: domain.ReasonStartFailed, Message: domain.Cut(err.Error())}
	if start, ok := errors.AsType[*ports.StartError](err); ok && start.ExitCode > 0 {
		report.ExitCode = start.ExitCode
	}
	return report
}

var errNoCommand = errors.New("there is nothing to run: the task has no command, and the configuration no entrypoint")

// spec is what to start. Of the environment, what comes later counts.
func (g *Guest) spec(execute domain.Execute) (ports.ProcessSpec, error) {
	command := slices.Concat(g.config.Entrypoint, execute.Command)
	if len(command) == 0 {
		return ports.ProcessSpec{}, &ports.StartError{ExitCode: domain.ExitNotFound, Err: errNoCommand}
	}
	spec := ports.ProcessSpec{Command: command, Env: g.environ(execute.Env), Dir: g.config.Dir, User: g.config.User}
	if g.config.Terminal {
		size := terminal
		spec.Terminal = &size
	}
	return spec, nil
}

// environ is the environment of what is started: the process's, the configuration's, and more.
func (g *Guest) environ(more ...map[string]string) []string {
	env := slices.Clone(g.config.Environ)
	for _, vars := range append([]map[string]string{g.config.Env}, more...) {
		for _, name := range slices.Sorted(maps.Keys(vars)) {
			env = append(env, name+"="+vars[name])
		}
	}
	return env
}

// resolve reports the result, until the host has it or refuses it for good. A command that succeeded
// while its log isn't whole is a failed task: nobody can tell what is missing, and the host itself need not
// have seen a byte of what was lost, nor that it was.
func (g *Guest) resolve(stop context.Context, report domain.Report, whole bool) {
	var pause backoff
	for told := false; ; {
		err := g.link.call(stop, func() error {
			result := domain.Result{Success: whole && report.Succeeded()}
			if g.link.has(domain.FeatureResult) {
				result.Report = &report
			}
			return g.config.Host.Resolve(stop, result)
		})
		refusal, refused := errors.AsType[*domain.Error](err)
		switch {
		case err == nil:
			g.log.Info("the host has the result")
			return
		case refused && !later(refusal):
			g.log.Error("the host refuses the result", "report", report.String(), "refusal", refusal)
			return
		case refused && !told:
			told = true
			g.log.Warn("the host can't take the result now; it is sent again", "refusal", refusal)
		}
		if !pause.wait(stop) {
			g.log.Error("the guest ends before the host took the result", "report", report.String())
			return
		}
	}
}

// line is one line of ours for the task's log.
func line(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, text)
	return fmt.Sprintf("guest-tools: %s\n", text)
}
