package hostclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/ports"
)

var (
	errLogAborted = errors.New("the log was broken off")
	errLogClosed  = errors.New("the log is closed")
	errLogEarly   = errors.New("the host ended the log before its end")
	errLogCut     = errors.New("the connection of the log ended")
)

// logStream is a log body on its way. The writer's block goes to net/http's own goroutine as it is,
// which writes it out as one chunk: io.Pipe would take it there in pieces.
type logStream struct {
	cancel context.CancelCauseFunc
	upload *upload
	blocks chan []byte
	taken  chan writeResult // one for each block, always
	ended  chan struct{}    // closed by Close
	conn   *connEnd         // pump's, since before it runs
	done   chan struct{}    // closed when the request is over and err is set
	err    error
	whole  bool // the body went out to its end

	closing sync.Once
}

type writeResult struct {
	n   int
	err error
}

// OpenLog is ports.Host's. It returns before the host is reached: Write tells if it can't be.
func (c *Client) OpenLog(ctx context.Context) (ports.LogStream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &logStream{
		cancel: cancel,
		upload: newUpload(ctx),
		blocks: make(chan []byte),
		taken:  make(chan writeResult),
		ended:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		s.conn = info.Conn.(interface{ end() *connEnd }).end() // dial makes no other
	}})
	req, err := c.request(ctx, http.MethodPost, wire.PathLog, nil, streamBody{upload: s.upload, write: s.pump})
	if err != nil {
		cancel(nil)
		return nil, err
	}
	req.ContentLength = -1
	req.GetBody = func() (io.ReadCloser, error) { return req.Body, s.upload.reopen() }
	go s.run(c, req)
	return s, nil
}

func (s *logStream) run(c *Client, req *http.Request) {
	defer close(s.done)
	_, err := c.do(req)
	close(s.upload.answered)
	s.cancel(errLogEarly) // frees pump, where it waits for more
	s.upload.wait()
	if err == nil && !s.whole {
		err = errLogEarly
	}
	s.err = err
}

// pump runs in net/http's goroutine.
func (s *logStream) pump(w io.Writer) error {
	for {
		select {
		case block := <-s.blocks:
			if s.conn.hasEnded() {
				s.taken <- writeResult{0, errLogCut}
				return s.awaitAnswer()
			}
			n, err := w.Write(block)
			s.taken <- writeResult{n, err}
			if err != nil {
				return err
			}
		case <-s.ended:
			s.whole = true
			return nil
		case <-s.conn.over:
			return s.awaitAnswer()
		case <-s.upload.ctx.Done():
			return context.Cause(s.upload.ctx)
		}
	}
}

// awaitAnswer is for a connection that has ended: an answer may have come before that.
func (s *logStream) awaitAnswer() error {
	s.upload.awaitAnswer()
	return errLogCut
}

// Write is ports.LogStream's. The number that it returns with an error is what went into the
// connection, and may be lost: what comes after it surely is not with the host.
func (s *logStream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case <-s.ended:
		return 0, errLogClosed
	default:
	}
	select {
	case s.blocks <- p:
		result := <-s.taken // p is net/http's until then
		if result.err == nil {
			return result.n, nil
		}
		<-s.done // its error says more: it may be a refusal
		return result.n, s.err
	case <-s.done:
		return 0, s.err
	}
}

// Close is ports.LogStream's.
func (s *logStream) Close() error {
	s.closing.Do(func() { close(s.ended) })
	<-s.done
	return s.err
}

// Abort is ports.LogStream's.
func (s *logStream) Abort() {
	s.cancel(errLogAborted)
	<-s.done
}
