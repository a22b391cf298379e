package guest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// leastPoll is how long a poll takes at least that brought nothing to do. A host that holds none, for
// whatever reason, must not keep a core busy.
const leastPoll = 100 * time.Millisecond

// morePolls is how many polls there are beside the first while the host asks for several things at a time:
// one poll after the other brings no more actions than there are round trips. A host parks four.
const morePolls = 2

// pollers are the polls beside the first.
type pollers struct {
	room chan struct{} // holds one for each
	all  sync.WaitGroup
}

// begin calls poll on a goroutine of its own, unless there are enough of them.
func (p *pollers) begin(poll func()) {
	select {
	case p.room <- struct{}{}:
		p.all.Go(func() {
			poll()
			<-p.room
		})
	default:
	}
}

// servePolls asks for actions until ctx ends.
func (g *Guest) servePolls(ctx context.Context) {
	more := pollers{room: make(chan struct{}, morePolls)}
	defer more.all.Wait()
	var pause backoff
	refused := false
	for ctx.Err() == nil {
		start := time.Now()
		action, usable, err := g.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if refusal, ok := errors.AsType[*domain.Error](err); ok && !refused {
				refused = true
				g.log.Warn("the host refuses polls; it is asked again", "refusal", refusal)
			}
			pause.wait(ctx)
			continue
		}
		pause.reset()
		refused = false
		if usable && g.take(action) {
			if g.crew.several() {
				more.begin(func() { g.pollMore(ctx) })
			}
			continue
		}
		if rest := leastPoll - time.Since(start); rest > 0 {
			sleep(ctx, rest)
		}
	}
}

// poll asks for an action, and tells whether that can be taken: there may be none, or one that this version doesn't
// know. That is told, and no error: the host does answer.
func (g *Guest) poll(ctx context.Context) (action domain.Action, usable bool, err error) {
	err = g.link.call(ctx, func() (err error) {
		action, err = g.config.Host.Poll(ctx)
		return err
	})
	if errors.Is(err, domain.ErrUnknownKind) || errors.Is(err, domain.ErrInvalidAction) {
		g.log.Warn("the host asks for something that this version can't do; it is not answered", "error", err)
		return action, false, nil
	}
	return action, err == nil && action.Kind() != domain.KindNone, err
}

// pollMore asks for actions as long as there are any. What goes wrong is for the first poll to see to.
func (g *Guest) pollMore(ctx context.Context) {
	for ctx.Err() == nil {
		action, usable, err := g.poll(ctx)
		if err != nil || !usable || !g.take(action) {
			return
		}
	}
}

// take has the crew take an action.
func (g *Guest) take(action domain.Action) bool {
	if !g.crew.take(action) {
		g.log.Warn("an action came twice, or is one too many; it is passed over", "action", action)
		return false
	}
	if !g.crew.several() {
		runtime.Gosched() // the action first, and then the next poll: somebody waits for the one
	}
	return true
}

// act does what the host asks for, and answers it.
func (g *Guest) act(ctx context.Context, action domain.Action) {
	if ctx.Err() != nil {
		return
	}
	g.log.Debug("action", "action", action)
	var err error
	switch kind := action.Kind(); {
	case kind == domain.KindGetArtifact:
		err = g.sendArtifact(ctx, action)
	case kind == domain.KindListFolder:
		err = g.sendFolder(ctx, action)
	case kind == domain.KindGetFolder:
		err = g.sendArchive(ctx, action)
	case kind == domain.KindKillProcess:
		err = g.killTask(ctx, action)
	case kind == domain.KindExecShell && g.config.Shells != nil:
		err = g.serveShell(ctx, action)
	default:
		g.log.Warn("this version of guest-tools can't do this; it is not answered", "action", action)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	if broken(err) {
		g.link.broke()
	}
	g.log.Warn("an action failed", "action", action, "error", err)
}

// sendArtifact answers with a file. Version 1 has one word for all that can't be opened; why is told
// here alone.
func (g *Guest) sendArtifact(ctx context.Context, action domain.Action) error {
	file, err := g.config.Files.Open(action.Path())
	if err != nil {
		g.log.Info("a file can't be opened; the host is told that it is not found", "action", action, "error", err)
		return g.config.Host.SendNotFound(ctx, action.ID())
	}
	err = g.config.Host.SendArtifact(ctx, action.ID(), file)
	return errors.Join(err, file.Close())
}

func (g *Guest) sendFolder(ctx context.Context, action domain.Action) error {
	names, err := g.config.Files.Walk(ctx, action.Path())
	if err != nil {
		g.log.Info("a folder can't be walked; the host is told that it is not found", "action", action, "error", err)
		return g.config.Host.SendFolderNotFound(ctx, action.ID())
	}
	return g.config.Host.SendFolder(ctx, action.ID(), g.tellPassed(action, names))
}

// sendArchive answers with all files of a folder.
func (g *Guest) sendArchive(ctx context.Context, action domain.Action) error {
	names, err := g.config.Files.Walk(ctx, action.Path())
	if err != nil {
		g.log.Info("a folder can't be walked; the host is told that it is not found", "action", action, "error", err)
		return g.config.Host.SendNotFound(ctx, action.ID())
	}
	return g.config.Host.SendArchive(ctx, action.ID(), g.openEach(action, g.tellPassed(action, names)))
}

// openEach opens one file after the other. The host is told of those that can't be opened.
func (g *Guest) openEach(action domain.Action, names iter.Seq2[string, error]) iter.Seq2[ports.FolderFile, error] {
	folder := filepath.Clean(action.Path())
	return func(yield func(ports.FolderFile, error) bool) {
		for name, err := range names {
			relative := ""
			if err == nil {
				relative, err = filepath.Rel(folder, name)
			}
			if err != nil {
				yield(ports.FolderFile{}, err)
				return
			}
			if !g.openOne(ports.FolderFile{Name: filepath.ToSlash(relative)}, name, yield) {
				return
			}
		}
	}
}

func (g *Guest) openOne(file ports.FolderFile, path string, yield func(ports.FolderFile, error) bool) bool {
	opened, err := g.config.Files.Open(path)
	if err != nil {
		file.Failure = ports.FailureOf(err)
		return yield(file, nil)
	}
	defer opened.Close() // it was only read
	file.File = opened
	return yield(file, nil)
}

// maxPassed is how many of the folders that a walk passed over are named.
const maxPassed = 10

// tellPassed takes what the host has no word for out of the names, the folders that were passed over, and
// tells of it here.
func (g *Guest) tellPassed(action domain.Action, names iter.Seq2[string, error]) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		passed := 0
		for name, err := range names {
			if !errors.Is(err, ports.ErrPassedOver) {
				if !yield(name, err) {
					break
				}
				continue
			}
			if passed++; passed <= maxPassed {
				g.log.Warn("a folder may not be read; the host gets the names beside it", "action", action, "error", err)
			}
		}
		if passed > maxPassed {
			g.log.Warn("more folders may not be read", "action", action, "folders", passed-maxPassed)
		}
	}
}

// killTask answers when the tree is gone. Version 1 has no word for what could not be killed, so that
// goes where somebody may read it: here, and in the task's log.
func (g *Guest) killTask(ctx context.Context, action domain.Action) error {
	g.log.Info("the host ends the task", "action", action)
	survivors, err := g.task.kill(ctx, KillGrace)
	if errors.Is(err, errStarting) {
		return err // nobody can say that anything is dead
	}
	if err != nil {
		g.log.Error("the task's processes could not be killed", "error", err)
	}
	g.tellSurvivors(survivors)
	return g.config.Host.SendKilled(ctx, action.ID())
}

func (g *Guest) tellSurvivors(survivors []ports.Survivor) {
	for _, s := range survivors {
		g.log.Error("a process of the task could not be killed", "pid", s.PID, "command", domain.Quote(s.Command))
		g.task.note(fmt.Sprintf("process %d (%s) could not be killed", s.PID, domain.Quote(s.Command)))
	}
}
