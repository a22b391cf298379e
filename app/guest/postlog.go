package guest

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

const (
	// postTries is how often PostLog asks a host that has too much to do: for close to a minute.
	postTries = 15
	// postKept is how much of what was read is kept for another try.
	postKept = 64 << 10
)

// PostLog sends all of r into the log of the host's task, as it comes, beside whatever else writes to
// it. It returns once the host has said that it has all of it. A host that has too much to do, and so took
// nothing, is asked again.
func PostLog(ctx context.Context, host ports.Host, r io.Reader) (int64, error) {
	source := &replay{from: r}
	var pause backoff
	for try := 1; ; try++ {
		sent, err := postOnce(ctx, host, source)
		refusal, refused := errors.AsType[*domain.Error](err)
		if !refused || refusal.Code != domain.CodeTooManyRequests {
			return sent, err
		}
		if try == postTries || !source.rewind() || !pause.wait(ctx) {
			return sent, err
		}
	}
}

func postOnce(ctx context.Context, host ports.Host, r io.Reader) (int64, error) {
	stream, err := host.OpenLog(ctx)
	if err != nil {
		return 0, fmt.Errorf("open the log: %w", err)
	}
	defer stream.Abort()
	block := make([]byte, logBlock)
	var sent int64
	for {
		n, readErr := r.Read(block)
		if n > 0 {
			n, err := stream.Write(block[:n])
			sent += int64(n)
			if err != nil {
				return sent, fmt.Errorf("send to the log: %w", err)
			}
		}
		switch {
		case readErr == io.EOF:
			if err := stream.Close(); err != nil {
				return sent, fmt.Errorf("end the log: %w", err)
			}
			return sent, nil
		case readErr != nil:
			return sent, fmt.Errorf("read what to send: %w", readErr)
		}
	}
}

// replay keeps the beginning of what is read, so that it can be read again.
type replay struct {
	from io.Reader
	kept []byte
	at   int  // of kept, from where the next Read goes on
	over bool // more was read than is kept
}

func (r *replay) Read(p []byte) (int, error) {
	if r.at < len(r.kept) {
		n := copy(p, r.kept[r.at:])
		r.at += n
		return n, nil
	}
	n, err := r.from.Read(p)
	switch {
	case r.over:
	case len(r.kept)+n > postKept:
		r.over, r.kept, r.at = true, nil, 0
	default:
		r.kept = append(r.kept, p[:n]...)
		r.at = len(r.kept)
	}
	return n, err
}

// rewind goes back to the beginning, if all since then was kept.
func (r *replay) rewind() bool {
	r.at = 0
	return !r.over
}
