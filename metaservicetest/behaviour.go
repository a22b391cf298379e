package metaservicetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Behaviour is what a task of the engine's contract does, in the order of the fields. The zero Behaviour
// succeeds at once.
type Behaviour struct {
	Files       map[string]string // files that it writes, by names relative to its working folder
	Env         []string          // variables that it prints, as NAME=VALUE lines
	Fetch       string            // a path that it gets from its host; it prints the answer's body
	Print       string            // text that it prints, to the letter
	Times       int               // how often; 0 is once
	UntilFile   string            // it goes on until this file is there
	Then        string            // text that it prints afterwards
	UntilKilled bool              // it goes on until it is killed
	IgnoreKill  time.Duration     // for how long it does in spite of that; less than guests have patience
	ExitCode    int
}

func (b Behaviour) times() int { return max(b.Times, 1) }

// Command phrases it for Behave.
func (b Behaviour) Command() []string {
	text, err := json.Marshal(b)
	if err != nil { // of text and numbers
		panic(err)
	}
	return []string{"behave", string(text)}
}

// Behave is a Command for Run that does what Behaviour.Command says.
func Behave(ctx context.Context, task Task) int {
	var b Behaviour
	if len(task.Command) != 2 || json.Unmarshal([]byte(task.Command[1]), &b) != nil {
		fmt.Fprintln(task.Log, "the command is no Behaviour's")
		return 127
	}
	task.Guest.ServeShells(behaveShell(task.Files))
	for name, content := range b.Files {
		task.Files.Set(name, content)
	}
	for _, name := range b.Env {
		fmt.Fprintf(task.Log, "%s=%s\n", name, task.Env[name])
	}
	if b.Fetch != "" {
		answer, err := task.Guest.Get(b.Fetch)
		if err != nil {
			fmt.Fprintln(task.Log, err)
			return 1
		}
		_, err = io.Copy(task.Log, answer.Body)
		answer.Body.Close()
		if err != nil {
			return 1
		}
	}
	for range b.times() {
		_, _ = io.WriteString(task.Log, b.Print) // the log may be gone; the task goes on
	}
	if b.UntilFile != "" && !awaitFile(ctx, task.Files, b.UntilFile) {
		return 1
	}
	_, _ = io.WriteString(task.Log, b.Then)
	if b.UntilKilled {
		<-ctx.Done()
		if b.IgnoreKill > 0 {
			stubborn := time.NewTimer(b.IgnoreKill)
			defer stubborn.Stop()
			select {
			case <-stubborn.C:
			case <-task.Guest.Done(): // nobody ignores that
			}
		}
	}
	return b.ExitCode
}

// awaitFile waits for a file to be there.
func awaitFile(ctx context.Context, files *Files, name string) bool {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		if file, err := files.Open(inFS(name)); err == nil {
			file.Close()
			return true
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return false
		}
	}
}

// Shell phrases it for a guest with a POSIX shell. fetch is a command that prints what is at the host's
// path, which is added to it; without one, a Fetch fails.
func (b Behaviour) Shell(fetch ...string) []string {
	var s strings.Builder
	writeFiles(&s, b.Files)
	for _, name := range b.Env {
		fmt.Fprintf(&s, "printf '%%s\\n' \"%s=$%s\"\n", name, name)
	}
	if b.Fetch != "" {
		for _, arg := range fetch {
			s.WriteString(quote(arg) + " ")
		}
		if len(fetch) == 0 {
			s.WriteString("false ")
		}
		fmt.Fprintf(&s, "%s || exit 1\n", quote(b.Fetch))
	}
	if b.IgnoreKill > 0 {
		fmt.Fprintf(&s, "trap 'sleep %.3f; exit 1' TERM\n", b.IgnoreKill.Seconds())
	}
	if b.Print != "" {
		fmt.Fprintf(&s, "text=%s\ni=0\nwhile [ $i -lt %d ]; do printf %%s \"$text\"; i=$((i+1)); done\n", quote(b.Print), b.times())
	}
	if b.UntilFile != "" {
		fmt.Fprintf(&s, "while [ ! -e %s ]; do sleep 0.02; done\n", quote("./"+b.UntilFile))
	}
	if b.Then != "" {
		fmt.Fprintf(&s, "printf %%s %s\n", quote(b.Then))
	}
	if b.UntilKilled {
		s.WriteString("while :; do sleep 1000 & wait; done\n")
	}
	fmt.Fprintf(&s, "exit %d\n", b.ExitCode)
	return []string{"sh", "-c", s.String()}
}

func writeFiles(s *strings.Builder, files map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(s, "mkdir -p %s && printf %%s %s >%s || exit 1\n", quote("./"+path.Dir(name)), quote(files[name]), quote("./"+name))
	}
}

func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
