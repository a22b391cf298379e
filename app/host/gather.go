package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// taker is whom the files of a folder go to. All but begin is called by several goroutines at a time.
type taker interface {
	// begin tells what the path is. It comes first, and once; its error ends all.
	begin(isFile bool) error
	// storage is where a file goes.
	storage(file domain.ListedFile) ports.Storage
	// took hands over a file that came whole.
	took(file domain.ListedFile, size int64, content io.ReadSeekCloser)
	// failed tells of a file that won't come.
	failed(file domain.ListedFile, err error)
}

// gathering is one folder on its way to its taker, as far as that goes in one stream.
//
// The stream is read by the goroutine of its request. All that the taker sees is done by goroutines of the
// caller's, which have ended when gather returns: what the stream's own goroutine does with a caller that has
// given up must not matter to anybody.
type gathering struct {
	service *Service
	path    string
	to      taker
	todo    chan func() // for the caller's goroutines

	mu      sync.Mutex // guards what follows
	over    bool       // nobody reads the stream any more
	begun   bool
	isFile  bool
	refusal error // the taker's
	names   *domain.FolderNames
	pending map[string]domain.ListedFile // of names, those whose file is neither with the taker nor told as failed
	later   []domain.ListedFile          // of those, what the guest wants to be asked for by itself
	account domain.Listing               // of the names that can't be kept
}

// gather brings a file or the files of a folder to their taker in one stream, where the guest can do that. The
// listing tells what is left to be fetched file by file, and of all names that can't be kept: of a guest that
// can't, or whose stream broke off, that is what nothing has become of yet. The errors are those of List,
// and the taker's at its begin.
func (s *Service) gather(ctx context.Context, path string, to taker) (rest domain.Listing, err error) {
	g := &gathering{service: s, path: path, to: to, todo: make(chan func()),
		names: domain.NewFolderNames(path), pending: make(map[string]domain.ListedFile)}
	if !s.Features().Has(domain.FeatureTar) {
		return g.list(ctx)
	}
	broken, err := g.stream(ctx)
	switch {
	case g.refusal != nil:
		return domain.Listing{}, g.refusal
	case err != nil:
		return domain.Listing{}, err
	case broken == nil:
		g.account.Files = g.later
		return g.account, nil
	}
	s.log.Warn("a folder's archive broke off; what is missing is fetched file by file", "error", broken)
	rest, err = g.list(ctx)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w, after its archive broke off: %w", err, broken)
	}
	return rest, err
}

// list asks for the names, and leaves out what has come.
func (g *gathering) list(ctx context.Context) (domain.Listing, error) {
	listing, err := g.service.List(ctx, g.path)
	if err != nil {
		return domain.Listing{}, err
	}
	switch isFile := listing.IsFile(); {
	case !g.begun:
		if err := g.to.begin(isFile); err != nil {
			return domain.Listing{}, err
		}
	case isFile != g.isFile:
		return domain.Listing{}, fmt.Errorf("%w: %s: %w: the guest calls it a file, and a folder", domain.ErrNonFatalInternalError,
			domain.Quote(g.path), domain.ErrInvalidReply)
	}
	listing.Account(g.account)
	var missing []domain.ListedFile
	for _, file := range listing.Files {
		_, pending := g.pending[file.Relative]
		if pending || !g.names.Has(file.Relative) {
			missing = append(missing, file)
		}
		delete(g.pending, file.Relative)
	}
	for _, file := range g.pending { // gone meanwhile, but it was there: the guest is to say so
		missing = append(missing, file)
	}
	listing.Files = missing
	return listing, nil
}

// stream asks for the archive until its reply has begun. broken is why that is not all there is; what has come
// of it has come. It returns when nothing of it goes on, but for a reply that can't be interrupted.
func (g *gathering) stream(ctx context.Context) (broken, err error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	var workers sync.WaitGroup
	for range collectors {
		workers.Go(func() {
			for ctx.Err() == nil {
				select {
				case work := <-g.todo:
					work()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	err = g.service.persist(ctx, pathAction{domain.KindGetFolder, g.path}, func() error {
		action, err := domain.GetFolder(g.service.ids.NewID(), g.path)
		if err != nil {
			return err
		}
		err = g.service.once(ctx, &ask{action: action, archive: func(ctx context.Context, a *ask, reply ports.ArchiveReply) error {
			return g.receive(ctx, a, reply)
		}})
		if ctx.Err() == nil && g.service.closing.Err() == nil && g.streamed(err) {
			broken = err
			return nil
		}
		return err
	})
	g.mu.Lock()
	g.over = true
	g.mu.Unlock()
	end()
	workers.Wait()
	return broken, err
}

// streamed tells whether a stream that failed is to be left at what came of it.
func (g *gathering) streamed(err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil, errors.Is(err, domain.ErrNoPoll), errors.Is(err, domain.ErrNoReply), errors.Is(err, domain.ErrResourceNotFound):
		return false
	case g.refusal != nil:
		return true
	case errors.Is(err, errTooLarge):
		return true
	}
	return !isFinal(err)
}

// errOver is a stream whose caller has gone.
var errOver = fmt.Errorf("%w: nobody wants the folder any more", domain.ErrBrokenReply)

// errTooLarge is a file that ends a stream, since what is behind it would have to wait for it.
var errTooLarge = errors.New("one file is too large")

// work has one of the caller's goroutines do something.
func (g *gathering) work(ctx context.Context, do func()) error {
	if ctx.Err() != nil {
		return errOver
	}
	select {
	case g.todo <- do:
		return nil
	case <-ctx.Done():
		return errOver
	}
}

// begin tells the taker what the path is, and waits for its word.
func (g *gathering) begin(ctx context.Context, isFile bool) error {
	told := make(chan error, 1)
	err := g.work(ctx, func() {
		err := g.to.begin(isFile)
		g.mu.Lock()
		g.begun, g.isFile, g.refusal = true, isFile, err
		g.mu.Unlock()
		told <- err
	})
	if err != nil {
		return err
	}
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		return errOver
	}
}

// take keeps a name, if it can be kept.
func (g *gathering) take(entry domain.ArchiveEntry) (file domain.ListedFile, kept bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return file, false, errOver
	}
	if entry.Unfit != "" {
		g.account.Refuse(fmt.Errorf("%w %s: it is %s", domain.ErrRefusedName, domain.Quote(entry.Name), entry.Unfit))
		return file, false, nil
	}
	file, err = g.names.TakeRelative(entry.Name)
	if err != nil {
		g.account.Refuse(err)
		return file, false, nil
	}
	g.pending[file.Relative] = file
	if entry.Failure == domain.FailureApart {
		g.later = append(g.later, file)
	}
	return file, true, nil
}

// settled notes that something has become of a file.
func (g *gathering) settled(file domain.ListedFile) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.pending, file.Relative)
}

// fail tells the taker of a file that won't come.
func (g *gathering) fail(file domain.ListedFile, err error) {
	g.to.failed(file, fmt.Errorf("%s of %s: %w", domain.KindGetFolder, domain.Quote(file.Path), err))
	g.settled(file)
}
