package guest

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// link is what is known of the host: whether it is there, and what it can do. It says hello before the
// first request, and again after a connection to a host that had answered it broke: the host may be
// another one by now, which knows nothing of this guest.
type link struct {
	host  ports.Host
	hello domain.Hello
	log   *slog.Logger
	turn  chan struct{} // held by whoever says hello
	end   func(error)   // ends the guest, for a reason that nothing would change; set before the first call

	mu       sync.Mutex
	greet    bool            // a hello is due
	features domain.Features // what both can do
	spoke    bool            // the host answered the last hello: it isn't of version 1
	answered time.Time       // when it last answered anything
	away     bool            // that it is was told
}

func newLink(host ports.Host, hello domain.Hello, log *slog.Logger) *link {
	return &link{host: host, hello: hello, log: log, turn: make(chan struct{}, 1), end: func(error) {}, greet: true}
}

// call makes a request, after the hello if one is due. It tells the log when the host goes away, and
// when it is back.
func (l *link) call(ctx context.Context, request func() error) error {
	err := l.ready(ctx)
	if err == nil {
		err = l.authorized(request())
	}
	if ctx.Err() != nil {
		return err
	}
	if broken(err) {
		l.broke()
		l.tellAway(err)
	} else {
		l.heard()
	}
	return err
}

// broken tells whether the way to the host failed, in whatever way. A host that answers isn't away,
// even if what it says can't be taken.
func broken(err error) bool {
	if err == nil {
		return false
	}
	if _, refused := errors.AsType[*domain.Error](err); refused {
		return false
	}
	for _, answer := range []error{domain.ErrUnknownKind, domain.ErrInvalidAction, domain.ErrInvalidExecute, ErrNoAccess} {
		if errors.Is(err, answer) {
			return false
		}
	}
	return true
}

// broke notes that a connection broke.
func (l *link) broke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.greet = l.greet || l.spoke
}

func (l *link) tellAway(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return
	}
	l.away = true
	if l.answered.IsZero() {
		l.log.Info("the host is not there yet; it is tried until it is", "error", err)
	} else {
		l.log.Warn("the host has gone away; it is tried until it is back", "error", err)
	}
}

// heard notes that the host answered.
func (l *link) heard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.away && l.answered.IsZero():
		l.log.Info("the host is there")
	case l.away:
		l.log.Info("the connection of a host that went away and came back is picked up again")
	}
	l.away, l.answered = false, time.Now()
}

// lastAnswer is when the host last showed that it is there.
func (l *link) lastAnswer() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answered
}

// has tells whether both can do something.
func (l *link) has(feature domain.Feature) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.features.Has(feature)
}

// ready says hello if one is due. An error means that the host wasn't reached, or asked to try later.
func (l *link) ready(ctx context.Context) error {
	if !l.due() {
		return nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !l.due() { // somebody else was faster
		return nil
	}
	theirs, err := l.host.Hello(ctx, l.hello)
	if !broken(err) {
		l.heard()
	}
	refusal, refused := errors.AsType[*domain.Error](err)
	switch {
	case err == nil:
		both := l.hello.Features.Both(theirs)
		if err := l.takeToken(ctx, both); err != nil {
			return err
		}
		l.log.Info("the host speaks version 2", "features", both)
		l.greeted(true, both)
	case !refused, later(refusal):
		return err
	case refusal.Code == domain.CodeUnauthorized:
		return l.authorized(err)
	case refusal.Code == domain.CodeNoSuchEndPoint:
		l.log.Info("the host speaks version 1")
		l.greeted(false, nil)
	default:
		l.log.Warn("the host refuses the hello; version 1 is spoken with it", "refusal", refusal)
		l.greeted(false, nil)
	}
	return nil
}

func (l *link) due() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.greet
}

func (l *link) greeted(spoke bool, features domain.Features) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.greet, l.spoke, l.features = false, spoke, features
}

// later tells whether a refusal is one that may not be repeated.
func later(refusal *domain.Error) bool {
	return refusal.Code == domain.CodeInternalError || refusal.Code == domain.CodeTooManyRequests
}
