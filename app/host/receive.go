package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// fileNotFound is the one word that version 1 has for a file that could not be sent.
const fileNotFound = "file-not-found"

// blocks are the buffers for what comes in bulk. 1 MiB is where reading off a socket stops getting
// faster.
var blocks = sync.Pool{New: func() any { return new([1 << 20]byte) }}

// receiveArtifact spools a file, and commits it only if it came to its clean end.
func (s *Service) receiveArtifact(ctx context.Context, a *ask, storage ports.Storage, reply ports.ArtifactReply) (io.ReadSeekCloser, error) {
	switch reply.Error {
	case "":
	case fileNotFound:
		return nil, domain.ErrResourceNotFound
	default:
		return nil, fmt.Errorf("%w: %s", domain.ErrGuestError, domain.Quote(reply.Error))
	}
	tooLarge := &domain.LimitError{Limit: "ArtifactBytes", Max: s.limits.ArtifactBytes, Unit: "bytes"}
	if reply.Size > tooLarge.Max {
		return nil, tooLarge
	}
	space := s.spaceOf(storage)
	if err := space.check(max(reply.Size, 0)); err != nil {
		return nil, fmt.Errorf("%w: %w", domain.ErrStorage, err)
	}
	upload, err := storage.Create(reply.Size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", domain.ErrStorage, err)
	}
	defer upload.Close() // after Commit it does nothing
	body, done := s.paced(ctx, a, reply.Body)
	defer done()
	limited := &limitedReader{r: body, left: tooLarge.Max, err: tooLarge}
	ended, err := move(upload, body, reply.Size, limited, space)
	if err == nil && !ended {
		err = spool(space.writer(upload), limited)
	}
	if err != nil {
		return nil, err
	}
	file, err := upload.Commit()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", domain.ErrStorage, err)
	}
	return file, nil
}

const (
	// slice is how much of a body an upload takes by itself at a time. The kernel does that in steps of not quite
	// the MiB that a pipe holds: what is left of a slice of one MiB is a step that costs as much as a whole one.
	slice = spaceEvery
	// sliceTime is how long it may wait for that: the pace is looked at again.
	sliceTime = time.Second
)

// move has the upload take the body off its connection by itself, as far as both can, and tells whether that was all
// of it. What is left, spool copies.
func move(upload ports.Upload, body *pacedReader, size int64, limited *limitedReader, space space) (ended bool, err error) {
	to, ok := upload.(io.ReaderFrom)
	if !ok {
		return false, nil
	}
	bulk, ok := body.body.(ports.BulkBody)
	if !ok {
		return false, nil
	}
	for limited.left > 0 {
		most := min(slice, limited.left)
		if size > 0 {
			most = min(most, size)
		}
		if err := space.check(most); err != nil {
			return false, fmt.Errorf("%w: %w", domain.ErrStorage, err)
		}
		n, err := body.move(bulk, to, most)
		limited.left -= n
		size -= n
		switch {
		case err == io.EOF:
			return true, nil
		case errors.Is(err, errors.ErrUnsupported):
			return false, nil
		case err != nil:
			return false, err
		}
	}
	return false, nil // it may have come to its end just so
}

// announced is how many bytes a body that moves is to bring now, where it tells. They can be kept free for it.
func announced(r io.Reader) int64 {
	if limited, ok := r.(*io.LimitedReader); ok {
		return limited.N
	}
	return 0
}

// spool copies r to w in large blocks, and tells the two ends' errors apart.
func spool(w io.Writer, r io.Reader) error {
	block := blocks.Get().(*[1 << 20]byte)
	defer blocks.Put(block)
	for {
		n, err := r.Read(block[:])
		if n > 0 {
			if _, err := w.Write(block[:n]); err != nil {
				return fmt.Errorf("%w: %w", domain.ErrStorage, err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// receiveFolder reads a list of names, and keeps those that can be kept.
func (s *Service) receiveFolder(ctx context.Context, a *ask, path string, reply ports.FolderReply) (domain.Listing, error) {
	tooLong := &domain.LimitError{Limit: "ListBytes", Max: s.limits.ListBytes, Unit: "bytes"}
	if reply.Size > tooLong.Max {
		return domain.Listing{}, tooLong
	}
	body, done := s.paced(ctx, a, reply.Body)
	defer done()
	var listing domain.Listing
	names := domain.NewFolderNames(path)
	var told int64
	add := func(name string) error {
		if told++; told > s.limits.ListEntries {
			return &domain.LimitError{Limit: "ListEntries", Max: s.limits.ListEntries, Unit: "names"}
		}
		relative, err := names.Take(name)
		if err != nil {
			listing.Refuse(err)
			return nil
		}
		listing.Files = append(listing.Files, domain.ListedFile{Path: name, Relative: relative})
		return nil
	}
	notFound, err := reply.Decode(&limitedReader{r: body, left: tooLong.Max, err: tooLong}, add)
	switch {
	case err != nil:
		return domain.Listing{}, err
	case notFound:
		return domain.Listing{}, domain.ErrResourceNotFound
	}
	if listing.Refused > 0 {
		s.log.Warn("names in a folder's list were refused", "refused", listing.Refused, "kept", len(listing.Files),
			"first", listing.Reasons[0])
	}
	return listing, nil
}

// limitedReader ends with an error of its own where io.LimitReader would end as if all were well.
type limitedReader struct {
	r    io.Reader
	left int64
	err  error
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if int64(len(p))-1 > l.left { // l.left+1 may be too much to be said
		p = p[:l.left+1] // one more tells the limit from the end
	}
	n, err := l.r.Read(p)
	if int64(n) > l.left {
		n, err = int(l.left), l.err
	}
	l.left -= int64(n)
	return n, err
}

// allow lets n bytes more come.
func (l *limitedReader) allow(n int64) { l.left += min(n, math.MaxInt64-l.left) }

// pacedReader holds a sender to the least rate, and gives up when its context ends. It does so by the
// body's own read deadline, which needs no goroutine. A body that has none can't be interrupted: then
// a watchdog frees the caller at least, and the connection stays with whoever serves it.
type pacedReader struct {
	ctx      context.Context // ends when nobody wants it any more, or the request does
	caller   context.Context // ends when nobody wants it any more
	body     ports.Body
	pace     *domain.Pace
	away     time.Time // since when nobody reads
	watchdog *time.Timer
	giveUp   func(error)
}

var errTooSlow = fmt.Errorf("%w: it brought less than Limits.Floor within Limits.Stall", domain.ErrSlowReply)

// paced wraps the body of a reply to a. Call done when nothing reads it any more.
func (s *Service) paced(ctx context.Context, a *ask, body ports.Body) (r *pacedReader, done func()) {
	now := time.Now()
	p := &pacedReader{
		ctx:    ctx,
		caller: a.ctx,
		body:   body,
		pace:   domain.NewPace(s.limits.Stall, s.limits.Floor, now),
		away:   now,
		giveUp: func(err error) { a.finish(err) },
	}
	stop := context.AfterFunc(ctx, func() {
		body.SetReadDeadline(time.Unix(1, 0)) // long past: a Read that waits returns
	})
	return p, func() {
		stop()
		p.calm()
	}
}

func (p *pacedReader) Read(b []byte) (int, error) {
	p.pace.Shift(time.Since(p.away))
	if err := p.await(p.pace.Deadline()); err != nil {
		return 0, fmt.Errorf("%w: %w", domain.ErrBrokenReply, err)
	}
	if p.ctx.Err() != nil { // it ended before the deadline was moved, which undid the interruption
		return 0, p.broken(context.Cause(p.ctx))
	}
	n, err := p.body.Read(b)
	p.away = time.Now()
	p.calm()
	late := p.pace.TooSlow(p.away)
	p.pace.Got(n, p.away)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		if err := p.await(time.Time{}); err != nil { // the connection goes on without us
			return n, fmt.Errorf("%w: %w", domain.ErrBrokenReply, err)
		}
		return n, io.EOF
	case late && p.caller.Err() == nil:
		return n, errTooSlow
	}
	return n, p.broken(err)
}

// move is Read by BulkBody.MoveTo. It waits for less than a Read, and may return early, with nothing.
func (p *pacedReader) move(bulk ports.BulkBody, to io.ReaderFrom, most int64) (int64, error) {
	start := time.Now()
	p.pace.Shift(start.Sub(p.away))
	deadline := start.Add(sliceTime)
	if last := p.pace.Deadline(); last.Before(deadline) {
		deadline = last
	}
	if err := p.body.SetReadDeadline(deadline); err != nil {
		return 0, fmt.Errorf("%w: %w", domain.ErrBrokenReply, err)
	}
	if p.ctx.Err() != nil { // as in Read
		return 0, p.broken(context.Cause(p.ctx))
	}
	n, err := bulk.MoveTo(to, most)
	p.away = time.Now()
	if own := p.away.Sub(deadline); own > 0 {
		p.pace.Shift(own) // nobody waits for the sender beyond the deadline: it was the receiver
	}
	p.pace.Got(int(n), p.away)
	switch {
	case err == nil, err == io.EOF, errors.Is(err, errors.ErrUnsupported), errors.Is(err, domain.ErrStorage):
		return n, err
	case p.ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
		return n, p.broken(err)
	case p.pace.TooSlow(p.away):
		return n, errTooSlow
	}
	return n, nil // no more came in time
}

// broken tells a caller who gave up from a reply that broke off. net/http ends a request's context
// at each error of its connection, so that context alone doesn't tell.
func (p *pacedReader) broken(err error) error {
	if p.caller.Err() != nil {
		return context.Cause(p.caller)
	}
	return fmt.Errorf("%w: %w", domain.ErrBrokenReply, err)
}

// await sets the deadline, on the body or on the watchdog.
func (p *pacedReader) await(deadline time.Time) error {
	err := p.body.SetReadDeadline(deadline)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if deadline.IsZero() {
		return nil
	}
	if p.watchdog == nil {
		p.watchdog = time.AfterFunc(time.Until(deadline), func() { p.giveUp(errTooSlow) })
	} else {
		p.watchdog.Reset(time.Until(deadline))
	}
	return nil
}

func (p *pacedReader) calm() {
	if p.watchdog != nil {
		p.watchdog.Stop()
	}
}
