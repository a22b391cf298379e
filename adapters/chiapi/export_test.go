package chiapi

import (
	"net/http"

	"github.com/go-chi/chi/v5"
)

// Routes are the end points that a handler made by New knows.
func Routes(h http.Handler) chi.Routes { return h.(*guard).next.(chi.Routes) }
