package proxies

import "github.com/hexworker/metaservice/domain"

// LimitRows are the rows of this package's limits.
func LimitRows() []domain.LimitRow {
	return []domain.LimitRow{{
		Area: "proxies", Name: "proxies", Default: "none of its own", Of: "requests and bytes that go through one",
		AtLimit: "its connections count among those that there may be in all, until they are closed", Change: "the handler that is attached: it bounds what it does for a task",
	}}
}
