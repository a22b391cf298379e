package httpserver

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"github.com/hexworker/metaservice/domain"
)

// quoting keeps a guest's bytes, which net/http puts into its messages, from reaching a log as they are,
// and a guest from filling the log with them.
type quoting struct {
	slog.Handler
	seen *seen
}

// seen counts the messages of each kind.
type seen struct {
	mu    sync.Mutex // guards kinds
	kinds map[string]*domain.Seldom
}

func newQuoting(inner slog.Handler) quoting {
	return quoting{inner, &seen{kinds: make(map[string]*domain.Seldom)}}
}

// maxKinds is more than net/http has.
const maxKinds = 32

// again counts one more of the message's kind, which its first two words tell, and tells whether it is to be
// logged.
func (s *seen) again(message string) (time uint64, told bool) {
	first, rest, _ := strings.Cut(message, " ")
	second, _, _ := strings.Cut(rest, " ")
	kind := domain.Cut(first + " " + second)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kinds[kind] == nil {
		if len(s.kinds) >= maxKinds {
			kind = ""
		}
		if s.kinds[kind] == nil {
			s.kinds[kind] = new(domain.Seldom)
		}
	}
	count := s.kinds[kind]
	told = count.Again()
	return uint64(*count), told
}

func (q quoting) Handle(ctx context.Context, record slog.Record) error {
	message := strings.TrimSpace(record.Message)
	time, told := q.seen.again(message)
	if !told {
		return nil
	}
	quoted := slog.NewRecord(record.Time, record.Level, "http: "+domain.Quote(message), record.PC)
	quoted.AddAttrs(slog.Uint64("time", time))
	return q.Handler.Handle(ctx, quoted)
}
