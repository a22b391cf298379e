package guest

import (
	"context"
	"errors"
	"fmt"

	"github.com/hexworker/metaservice/domain"
)

// ErrNoAccess is a host that serves somebody else in this guest, or nobody: asking again would change
// nothing.
var ErrNoAccess = errors.New("the host does not serve these guest-tools")

// What is to be done about an ErrNoAccess.
const (
	wrongToken = "it refuses their token, which is not its guest's: --token-file must name the token that this guest was given, by this host"
	noToken    = "it demands the token of its guest's tools, and these have none: give its file by --token-file, and let them read it. " +
		"A host that hands its token out itself does so once: these tools may have had it before they were started again, or else somebody else in this guest has it"
	takenToken = "somebody has the token already that it hands out once: something else in this guest was faster than these tools, " +
		"and may act in their place, or they were started again and have lost it"
)

// authorized takes note of a host that refuses this guest, which ends it.
func (l *link) authorized(err error) error {
	if !errors.Is(err, &domain.Error{Code: domain.CodeUnauthorized}) {
		return err
	}
	why := noToken
	if l.host.HasToken() {
		why = wrongToken
	}
	return l.giveUp(why, err)
}

// giveUp ends the guest. The refusal is told in words alone: nobody is to act on its code.
func (l *link) giveUp(why string, refusal error) error {
	err := fmt.Errorf("%w: %s (%v)", ErrNoAccess, why, refusal)
	l.end(err)
	return err
}

// takeToken asks a host for its token that hands one out. An error means that it is to be asked again, or
// that the guest ends.
func (l *link) takeToken(ctx context.Context, both domain.Features) error {
	if !both.Has(domain.FeatureToken) || l.host.HasToken() {
		return nil
	}
	err := l.host.TakeToken(ctx)
	refusal, refused := errors.AsType[*domain.Error](err)
	switch {
	case err == nil:
		l.log.Info("the host has handed its token out: it serves nobody else in this guest")
		return nil
	case !refused:
		return err
	case refusal.Code == domain.CodeResourceConflict:
		return l.giveUp(takenToken, refusal)
	case refusal.Code == domain.CodeNoSuchEndPoint:
		l.log.Info("the host knows a token that these tools were not given: whatever runs in this guest is served as they are")
		return nil
	}
	return l.authorized(err)
}
