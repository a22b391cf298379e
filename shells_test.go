package metaservice_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hexworker/metaservice"
	"github.com/hexworker/metaservice/metaservicetest"
)

// withGuest has a guest of the script call a service, until the test ends.
func withGuest(t *testing.T, m *metaservice.MetaService, script metaservicetest.Script) {
	t.Helper()
	guest, err := metaservicetest.NewMachine(script).Boot(t.Context(), metaservice.BootOptions{Handler: m})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guest.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// upper is a shell that says who it is, and goes on until its input ends or it is aborted.
func upper(ctx context.Context, shell metaservicetest.Shell) int {
	fmt.Fprintf(shell.Stdout, "%q %v", shell.Command, shell.TTY)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, shell.Stdin)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return 3
}

func withShells(command metaservicetest.ShellCommand) metaservicetest.Script {
	return metaservicetest.Run(func(ctx context.Context, task metaservicetest.Task) int {
		task.Guest.ServeShells(command)
		<-ctx.Done()
		return 1
	})
}

// Old users compare with ==.
func TestExecShell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metaservice.New([]string{"sleep"}, nil, nil, nil, nil)
		defer m.Close()
		withGuest(t, m, withShells(upper))
		shell, err := m.ExecShell([]string{"a", "b"}, true)
		if err != nil {
			t.Fatal(err)
		}
		said := make([]byte, len(`["a" "b"] true`))
		if _, err := io.ReadFull(shell.StdoutPipe(), said); err != nil || string(said) != `["a" "b"] true` {
			t.Errorf("%q, %v", said, err)
		}
		check(t, "a size", shell.SetSize(132, 50), nil)
		check(t, "the input's end", shell.StdinPipe().Close(), nil)
		if success, err := shell.Wait(); success || err != nil {
			t.Errorf("Wait: %v, %v", success, err)
		}
		if err := shell.Abort(); err != metaservice.ErrShellTerminated {
			t.Errorf("Abort: %v", err)
		}
		if err := shell.SetSize(80, 24); err != metaservice.ErrShellTerminated {
			t.Errorf("SetSize: %v", err)
		}

		shell, err = m.ExecShell(nil, false)
		if err != nil {
			t.Fatal(err)
		}
		check(t, "abort", shell.Abort(), nil)
		if err := shell.Abort(); err != metaservice.ErrShellAborted {
			t.Errorf("Abort: %v", err)
		}
		if success, err := shell.Wait(); success || err != metaservice.ErrShellAborted {
			t.Errorf("Wait: %v, %v", success, err)
		}
		if _, err := shell.StdinPipe().Write([]byte("x")); err != metaservice.ErrShellAborted {
			t.Errorf("Write: %v", err)
		}
	})
}

func TestShell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metaservice.New([]string{"sleep"}, nil, nil, nil, nil, metaservice.WithLimits(metaservice.Limits{Shells: 1}))
		defer m.Close()
		withGuest(t, m, withShells(upper))
		begun := time.Now()
		shell, err := m.Shell(t.Context(), metaservice.ShellSpec{User: "root", Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Shell(t.Context(), metaservice.ShellSpec{})
		if limit, ok := errors.AsType[*metaservice.LimitError](err); !ok || limit.Limit != "Shells" {
			t.Errorf("a shell too many: %v", err)
		}
		result, err := shell.Result(t.Context())
		if err != nil || result.Report == nil || result.Report.Reason != "timeout" {
			t.Errorf("%+v, %v", result, err)
		}
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// A guest that says nothing of a shell's end has it ended by an error, whatever it said before.
func TestAShellWhoseGuestBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metaservice.New([]string{"sleep"}, nil, nil, nil, nil)
		defer m.Close()
		withGuest(t, m, func(_ context.Context, g *metaservicetest.Guest) error {
			action, err := g.Poll()
			if err != nil {
				return err
			}
			shell, err := g.OpenShell(action.ID())
			if err != nil {
				return err
			}
			_, err = io.WriteString(shell.Stdout(), "half of it")
			return errors.Join(err, shell.Close())
		})
		shell, err := m.ExecShell(nil, false)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(shell.StdoutPipe())
		if string(said) != "half of it" || !errors.Is(err, metaservice.ErrNonFatalInternalError) {
			t.Errorf("%q, %v", said, err)
		}
		if success, err := shell.Wait(); success || !errors.Is(err, metaservice.ErrNonFatalInternalError) {
			t.Errorf("Wait: %v, %v", success, err)
		}
	})
}

// A guest of version 1 says no hello: it gets shells as they were, and none that it doesn't understand.
func TestAShellInAGuestOfVersion1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metaservice.New([]string{"sleep"}, nil, nil, nil, nil)
		defer m.Close()
		withGuest(t, m, func(_ context.Context, g *metaservicetest.Guest) error {
			g.ServeActions(nil, nil)
			g.ServeShells(func(_ context.Context, shell metaservicetest.Shell) int {
				_, _ = io.Copy(shell.Stdout, shell.Stdin)
				return 0
			})
			return nil
		})
		if _, err := m.Shell(t.Context(), metaservice.ShellSpec{Dir: "/"}); !errors.Is(err, metaservice.ErrFeatureNotSupported) {
			t.Errorf("a folder: %v", err)
		}
		shell, err := m.Shell(t.Context(), metaservice.ShellSpec{})
		if err != nil {
			t.Fatal(err)
		}
		sent := make([]byte, 300_000) // several windows of version 1
		go func() {
			_, err := shell.StdinPipe().Write(sent)
			if err = errors.Join(err, shell.StdinPipe().Close()); err != nil {
				t.Error(err)
			}
		}()
		back, err := io.ReadAll(shell.StdoutPipe())
		if err != nil || len(back) != len(sent) {
			t.Errorf("%d bytes came back, %v", len(back), err)
		}
		result, err := shell.Result(t.Context())
		if err != nil || !result.Success || result.Report != nil {
			t.Errorf("%+v, %v", result, err)
		}
	})
}
