package guest

import (
	"context"
	"fmt"
	"io"

	"github.com/hexworker/metaservice/ports"
)

// PostLog sends all of r into the log of the host's task, as it comes, beside whatever else writes to
// it. It returns once the host has said that it has all of it.
func PostLog(ctx context.Context, host ports.Host, r io.Reader) (int64, error) {
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
