package metaservicetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/hexworker/metaservice/domain"
)

// ShellBehaviour is what a shell of the engine's contract does, in the order of the fields. The zero
// ShellBehaviour succeeds at once.
type ShellBehaviour struct {
	Files        map[string]string // files that it writes, by names relative to the task's working folder
	Env          []string          // variables that it prints, as NAME=VALUE lines
	Print        string            // text that it prints, to the letter
	PrintErr     string            // text that it prints to its standard error
	Echo         bool              // it prints what it reads, until the end of that
	UntilAborted bool              // it goes on until it is aborted
	ExitCode     int
}

// Command phrases it for Behave, whose guests have such shells.
func (b ShellBehaviour) Command() []string {
	text, err := json.Marshal(b)
	if err != nil { // of text and numbers
		panic(err)
	}
	return []string{"behave", string(text)}
}

// Shell phrases it for a guest with a POSIX shell.
func (b ShellBehaviour) Shell() []string {
	var s strings.Builder
	writeFiles(&s, b.Files)
	for _, name := range b.Env {
		fmt.Fprintf(&s, "printf '%%s\\n' \"%s=$%s\"\n", name, name)
	}
	if b.Print != "" {
		fmt.Fprintf(&s, "printf %%s %s\n", quote(b.Print))
	}
	if b.PrintErr != "" {
		fmt.Fprintf(&s, "printf %%s %s >&2\n", quote(b.PrintErr))
	}
	if b.Echo {
		s.WriteString("cat\n")
	}
	if b.UntilAborted {
		s.WriteString("while :; do sleep 1000; done\n")
	}
	fmt.Fprintf(&s, "exit %d\n", b.ExitCode)
	return []string{"sh", "-c", s.String()}
}

// behaveShell does what ShellBehaviour.Command says, beside a task that has these files.
func behaveShell(files *Files) ShellCommand {
	return func(ctx context.Context, shell Shell) int {
		var b ShellBehaviour
		if len(shell.Command) != 2 || json.Unmarshal([]byte(shell.Command[1]), &b) != nil {
			fmt.Fprintln(shell.Stderr, "the command is no ShellBehaviour's")
			return domain.ExitNotFound
		}
		for name, content := range b.Files {
			files.Set(name, content)
		}
		// Who can't be told something any more goes on: it was aborted, and soon knows.
		for _, name := range b.Env {
			fmt.Fprintf(shell.Stdout, "%s=%s\n", name, shell.Env[name])
		}
		_, _ = io.WriteString(shell.Stdout, b.Print)
		_, _ = io.WriteString(shell.Stderr, b.PrintErr)
		if b.Echo {
			_, _ = io.Copy(shell.Stdout, shell.Stdin)
		}
		if b.UntilAborted {
			<-ctx.Done()
		}
		return b.ExitCode
	}
}
