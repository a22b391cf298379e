package chiapi

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
)

func (h *handler) refuseMethod(w http.ResponseWriter, r *http.Request, allowed ...string) {
	allow := strings.Join(allowed, ", ")
	w.Header().Set("Allow", allow)
	h.refuse(w, r, &domain.Error{
		Code:    domain.CodeMethodNotAllowed,
		Message: "the method " + domain.Cut(r.Method) + " is not allowed here, use " + allow,
	})
}

// refuse answers with an error. What the guest still has to send is not waited for: it may never come.
// net/http reads up to 256 KiB of it, so that a client which sends before it reads gets its answer.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	h.refuseRest(w, r.Pattern, r.ContentLength != 0, err)
}

// refuseRest is refuse for a request of which more may come.
func (h *handler) refuseRest(w http.ResponseWriter, endpoint string, more bool, err error) {
	refusal := wire.Refusal(err)
	if more {
		w.Header().Set("Connection", "close")
		limitBody(w, refusedBody)
	}
	if refusal.Code == domain.CodeInternalError {
		// The app tells whoever can act on it; a guest could repeat this without end.
		h.log.Debug("a guest's request failed", "endpoint", endpoint, "error", err)
	}
	switch refusal.Code {
	case domain.CodePayloadTooLarge:
		if time, told := h.large.again(); told {
			h.log.Warn("a body of the guest was refused", "why", err, "time", time)
		}
	case domain.CodeTooManyRequests:
		w.Header().Set("Retry-After", "1")
	case domain.CodeUnauthorized:
		w.Header().Set(wire.HeaderChallenge, wire.Challenge) // RFC 9110, section 15.5.2
	}
	respond(w, wire.Status(refusal.Code), wire.EncodeError(refusal))
}

// respond writes a whole JSON answer out, and tells whether it could.
func respond(w http.ResponseWriter, status int, body []byte) error {
	w.Header().Set("Content-Type", wire.TypeJSON)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	controller := http.NewResponseController(w)
	controller.SetWriteDeadline(time.Now().Add(answerWrite)) // a writer without deadlines has none here either
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return err
	}
	err := controller.Flush()
	controller.SetWriteDeadline(time.Time{})
	if errors.Is(err, http.ErrNotSupported) {
		return nil // then the answer goes out when the handler returns, and nobody tells whether it did
	}
	return err
}

// limitBody bounds the time that the rest of a request's body may take. The next request on the
// connection has a time of its own. A writer without deadlines has none here either.
func limitBody(w http.ResponseWriter, d time.Duration) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(d))
}

// bodiless is for endpoints that need no body. net/http reads one that is there before it lets an
// answer out, and would wait for it for ever.
func bodiless(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			limitBody(w, smallBody)
		}
		f(w, r)
	}
}
