package chiapi

import (
	"net/http"

	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/domain"
	"github.com/hexworker/metaservice/ports"
)

// admit serves only what may be served by what a request shows: the rest is refused before anything else of
// it is looked at, be it a body, an id or a handshake.
func admit(may func(api ports.GuestAPI, shown string) error) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return on(func(h *handler, w http.ResponseWriter, r *http.Request) {
			if err := may(h.api, wire.ShownToken(r.Header)); err != nil {
				h.refuse(w, r, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// handToken hands the token to the first who asks for it, where there is no other way.
func (h *handler) handToken(w http.ResponseWriter, r *http.Request) {
	answered := false
	err := h.api.HandToken(r.Context(), wire.ShownToken(r.Header), func(token domain.Token) error {
		if wire.HungUp(r.Context()) { // the kernel would take the answer, and drop it
			return errHungUp
		}
		answered = true
		w.Header().Set("Cache-Control", "no-store") // RFC 6750, section 5.3
		return respond(w, http.StatusOK, wire.EncodeToken(token))
	})
	switch {
	case err == nil:
	case answered:
		panic(http.ErrAbortHandler) // it can't be written to
	default:
		h.refuse(w, r, err)
	}
}
