package chiapi

import "github.com/go-chi/chi/v5"

// Routes are the end points that all handlers know.
func Routes() chi.Routes { return router() }
