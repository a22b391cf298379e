package hostclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// sendBlock is how much of a file without a size is sent at a time.
const sendBlock = 64 << 10

// reply makes a reply to an action. It may claim the action's id, so it isn't idempotent.
func (c *Client) reply(ctx context.Context, id domain.ActionID, body io.Reader) (*http.Request, error) {
	return c.request(ctx, http.MethodPost, wire.PathReply, url.Values{wire.QueryID: {string(id)}}, body)
}

// SendNotFound is ports.Host's.
func (c *Client) SendNotFound(ctx context.Context, id domain.ActionID) error {
	return c.fixed(ctx, id, nil, http.Header{wire.HeaderError: {wire.FileNotFound}})
}

// SendKilled is ports.Host's.
func (c *Client) SendKilled(ctx context.Context, id domain.ActionID) error {
	return c.fixed(ctx, id, nil, nil)
}

// SendFolderNotFound is ports.Host's.
func (c *Client) SendFolderNotFound(ctx context.Context, id domain.ActionID) error {
	return c.fixed(ctx, id, wire.EncodeFilesNotFound(), http.Header{"Content-Type": {wire.TypeJSON}})
}

// fixed sends a reply that is there as a whole.
func (c *Client) fixed(ctx context.Context, id domain.ActionID, body []byte, headers http.Header) error {
	ctx, cancel := c.answerIn(ctx)
	defer cancel()
	var reader io.Reader // a nil one, not an empty one, is no body
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := c.reply(ctx, id, reader)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, headers)
	_, err = c.do(req)
	return err
}

func (c *Client) answerIn(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.options.AnswerTimeout, noAnswer(c.options.AnswerTimeout))
}

// SendFolder is ports.Host's.
func (c *Client) SendFolder(ctx context.Context, id domain.ActionID, names iter.Seq2[string, error]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var late *time.Timer
	var namesErr error
	up := newUpload(ctx)
	walk := followed(ctx, names, &namesErr)
	body := streamBody{upload: up, write: func(w io.Writer) error {
		err := wire.EncodeFiles(w, walk)
		if err == nil { // from here on it is an answer like any other
			late = time.AfterFunc(c.options.AnswerTimeout, func() {
				cancel(noAnswer(c.options.AnswerTimeout))
			})
		}
		return err
	}}
	err := c.send(ctx, cancel, id, body, up, func(req *http.Request) {
		req.ContentLength = -1
		req.Header.Set("Content-Type", wire.TypeJSON)
	})
	if late != nil {
		late.Stop()
	}
	if namesErr != nil {
		return fmt.Errorf("the folder's names: %w", namesErr)
	}
	return err
}

// followed is a sequence that notes its error, and ends where nobody takes it any more.
func followed[T any](ctx context.Context, sequence iter.Seq2[T, error], failed *error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for one, err := range sequence {
			if err != nil {
				*failed = err
			}
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if !yield(one, err) {
				return
			}
		}
	}
}

// SendArchive is ports.Host's. The answer may take any time: it comes once the host has handed all files
// over, and whoever it hands them to may be slow.
func (c *Client) SendArchive(ctx context.Context, id domain.ActionID, files iter.Seq2[ports.FolderFile, error]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var filesErr error
	up := newUpload(ctx)
	all := followed(ctx, files, &filesErr)
	body := streamBody{upload: up, write: func(w io.Writer) error { return wire.EncodeArchive(w, all) }}
	err := c.send(ctx, cancel, id, body, up, func(req *http.Request) {
		req.ContentLength = -1
		req.Header.Set("Content-Type", wire.TypeTar)
	})
	if filesErr != nil {
		return fmt.Errorf("the folder's files: %w", filesErr)
	}
	return err
}

// SendArtifact is ports.Host's. What is sent is what the file held when it was opened: no more where
// it grew, and an error, with the connection broken, where it shrank.
func (c *Client) SendArtifact(ctx context.Context, id domain.ActionID, file ports.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	up := newUpload(ctx)
	body, size, err := artifactBody(up, file)
	if err != nil {
		return err
	}
	if body == nil {
		req, err := c.reply(ctx, id, nil)
		if err != nil {
			return err
		}
		_, err = c.do(req)
		return err
	}
	return c.send(ctx, cancel, id, body, up, func(req *http.Request) { req.ContentLength = size })
}

// artifactBody chooses how the file goes out; nil is an empty one.
func artifactBody(up *upload, file ports.File) (io.Reader, int64, error) {
	size := file.Size()
	if 0 < size && size <= sendBlock {
		return smallBody(file, size)
	}
	if size > 0 {
		if f, ok := file.(seekableConn); ok {
			if at, err := f.Seek(0, io.SeekCurrent); err == nil {
				return fileBody{upload: up, file: f, end: at + size}, size, nil
			}
		}
		return &readBody{upload: up, r: file, left: size}, size, nil
	}
	// The kernel's own files have content, though their size is 0: only reading tells.
	block := make([]byte, sendBlock)
	n, err := file.Read(block)
	if n == 0 && err == io.EOF {
		return nil, 0, nil
	}
	return streamBody{upload: up, write: func(w io.Writer) error {
		for {
			if n > 0 {
				if _, err := w.Write(block[:n]); err != nil {
					return err
				}
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			n, err = file.Read(block)
		}
	}}, -1, nil
}

// smallBody reads a small file at once: net/http sends what is in memory together with the headers, in
// one write in place of two, and the host reads it so. A file that has just been cut short goes out as it
// is now, which is whole too.
func smallBody(file io.Reader, size int64) (io.Reader, int64, error) {
	content := make([]byte, size)
	n, err := io.ReadFull(file, content)
	if n == 0 && err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if err != nil || n == 0 {
		return nil, 0, err
	}
	return bytes.NewReader(content[:n]), int64(n), nil
}

// send makes a reply with a body, and returns when net/http has let go of it.
func (c *Client) send(ctx context.Context, cancel context.CancelCauseFunc, id domain.ActionID, body io.Reader, up *upload, set func(*http.Request)) error {
	req, err := c.reply(ctx, id, body)
	if err != nil {
		return err
	}
	set(req)
	if _, inMemory := body.(*bytes.Reader); inMemory {
		_, err := c.do(req)
		return err
	}
	req.GetBody = func() (io.ReadCloser, error) { return req.Body, up.reopen() }
	_, err = c.do(req)
	close(up.answered)
	cancel(errUploadOver) // ends a body that the host didn't want to the end
	up.wait()
	return err
}
