package processes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const needsShim = false

// DefaultPath is where commands are looked up whose environment has no PATH.
const DefaultPath = `C:\Windows\System32;C:\Windows`

// executable finds a program by its path, with or without the extension.
func executable(path, dir string) (string, error) {
	info, err := os.Stat(within(dir, path))
	if err == nil && info.IsDir() {
		return "", errFolder
	}
	found, err := exec.LookPath(within(dir, path))
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		err = os.ErrNotExist
	}
	return found, err
}

func lookupUser(name string) (*credential, error) {
	if name == "" {
		return nil, nil
	}
	return nil, fmt.Errorf("a command can't be run as user %s: on Windows all run as the current user", domain.Quote(name))
}

// openStream opens a pipe: there are no terminals here.
func openStream(*ports.TerminalSize, *credential) (*output, *os.File, error) { return outputPipe() }

func openShellTerminal(ports.TerminalSize) (*shellStreams, error) {
	return nil, fmt.Errorf("%w: on Windows there are no terminals: ask for none", domain.ErrFeatureNotSupported)
}

// give is for systems on which a command may have another user.
func give(*os.File, *credential) {}

// jobTree is a tree that a job object holds. A child that the command starts before it has been put into
// the job, in its very first moment, isn't in it.
type jobTree struct {
	process *os.Process
	job     windows.Handle
	killed  chan struct{} // holds a token once the job was ended while the command was alive
	reaped  chan struct{}
}

func (s *Starter) hold(cmd *command, files standard, ended func(domain.Report)) (tree, error) {
	job, err := newJob()
	if err != nil {
		return nil, cmd.failed(err)
	}
	process, err := os.StartProcess(cmd.path, cmd.args, &os.ProcAttr{Dir: cmd.dir, Env: cmd.env, Files: []*os.File{files.in, files.out, files.err}})
	if err != nil {
		_ = windows.CloseHandle(job)
		return nil, cmd.failed(err)
	}
	if err := assign(job, process.Pid); err != nil {
		_ = process.Kill()
		_, _ = process.Wait()
		_ = windows.CloseHandle(job)
		return nil, cmd.failed(err)
	}
	t := &jobTree{process: process, job: job, killed: make(chan struct{}, 1), reaped: make(chan struct{})}
	go t.wait(ended)
	return t, nil
}

// newJob makes a job whose processes end with it, and so with us.
func newJob() (windows.Handle, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return 0, fmt.Errorf("create a job object: %w", err)
	}
	var limits windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	limits.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits)))
	if err != nil {
		_ = windows.CloseHandle(job)
		return 0, fmt.Errorf("set up a job object: %w", err)
	}
	return job, nil
}

func assign(job windows.Handle, pid int) error {
	process, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(pid))
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer windows.CloseHandle(process)
	if err := windows.AssignProcessToJobObject(job, process); err != nil {
		return fmt.Errorf("put process %d into its job object: %w", pid, err)
	}
	return nil
}

func (t *jobTree) wait(ended func(domain.Report)) {
	defer close(t.reaped)
	report := domain.Report{Reason: domain.ReasonExited}
	state, err := t.process.Wait()
	if err != nil {
		report.ExitCode, report.Message = domain.ExitNotExecutable, "it could not be waited for: "+err.Error()
	} else {
		report.ExitCode = int(uint32(state.ExitCode()))
	}
	select {
	case <-t.killed:
		report.Reason = domain.ReasonKilled
	default:
	}
	ended(report)
}

// terminate ends the command: there is no asking.
func (t *jobTree) terminate() error {
	err := t.process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// hangUp is for terminals, which there aren't.
func (t *jobTree) hangUp() {}

func (t *jobTree) kill(context.Context, time.Duration) ([]ports.Survivor, error) {
	select {
	case <-t.reaped:
	default:
		select {
		case t.killed <- struct{}{}:
		default:
		}
	}
	if err := windows.TerminateJobObject(t.job, uint32(domain.ExitSignaled(9))); err != nil {
		return nil, fmt.Errorf("end the job object: %w", err)
	}
	<-t.reaped
	return nil, nil
}

func (t *jobTree) release() error { return windows.CloseHandle(t.job) }

// ShimMain is the shim of Linux; there is none here.
func ShimMain([]string) int { return 2 }
