package chiapi

import (
	"github.com/hexworker/metaservice/adapters/wire"
	"github.com/hexworker/metaservice/adapters/wsshell"
	"github.com/hexworker/metaservice/domain"
)

// LimitRows are the rows of the limits of the endpoints, and of what they parse and serve.
func LimitRows() []domain.LimitRow {
	const fixed = "fixed: no guest's tools take that long"
	rows := []domain.LimitRow{
		{Area: domain.AreaTimes, Name: "small body", Default: domain.LimitTime(smallBody), Of: "the body of a hello or a result, and one that nobody wants", AtLimit: "400 or a closed connection", Change: fixed},
		{Area: domain.AreaTimes, Name: "refused body", Default: domain.LimitTime(refusedBody), Of: "the rest of a body that is refused; 256 KiB of it are read at most", AtLimit: "the connection is closed", Change: fixed},
		{Area: domain.AreaTimes, Name: "answer", Default: domain.LimitTime(answerWrite), Of: "an answer that the guest doesn't read, and for which nothing in between has room", AtLimit: "the connection is closed", Change: fixed},
		{Area: domain.AreaLog, Name: "log trailers", Default: domain.LimitBytes(maxTrailers), Of: "fields behind a log's body, which nobody asks for", AtLimit: "the log is incomplete, and the connection closed", Change: "fixed: no guest's tools send any"},
		{Area: domain.AreaRequests, Name: "foreign requests", Default: "0", Of: "requests with Origin, Forwarded, Via, X-Forwarded-For or X-Forwarded-Host, at all endpoints, not at proxies",
			AtLimit: "403; in the log", Change: "fixed: no guest's tools send these"},
	}
	rows = append(rows, wire.LimitRows()...)
	return append(rows, wsshell.LimitRows()...)
}
