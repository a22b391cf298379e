package httpserver

import "github.com/hexworker/metaservice/domain"

// LimitRows are the rows of this package's limits.
func LimitRows() []domain.LimitRow {
	const area = "connections"
	const fixed = "fixed: it holds for each guest by itself, and none that is well needs more"
	return []domain.LimitRow{
		{Area: area, Name: "unclaimed connections", Default: domain.LimitCount(Unclaimed),
			Of: "at once, beside those of replies, logs, shells and proxies, and those that show the token", AtLimit: "the one that has been idle longest is closed, or whose headers take longer than " + domain.LimitTime(CrowdedHeaderTimeout) + ", or a new one waits, unread, until there is room; in the log", Change: fixed},
		{Area: area, Name: "connections", Default: domain.LimitCount(Connections),
			Of: "at once in all", AtLimit: "as for unclaimed ones", Change: fixed},
		{Area: area, Name: "accepts", Default: domain.LimitCount(Accepts) + "/s",
			Of: "new connections, and " + domain.LimitCount(AcceptBurst) + " at once after a rest; claimed ones don't count", AtLimit: "one more waits, unread; in the log", Change: fixed},
		{Area: area, Name: "header bytes", Default: domain.LimitBytes(HeaderBytes),
			Of: "a request's headers (net/http reads 4 KiB more)", AtLimit: "431, and the connection is closed", Change: "fixed: ours have less than 1 KiB"},
		{Area: area, Name: "header time", Default: domain.LimitTime(HeaderTimeout),
			Of: "for a request's headers to come; " + domain.LimitTime(CrowdedHeaderTimeout) + " where another connection waits for room", AtLimit: "the connection is closed", Change: "fixed: below what any guest waits"},
		{Area: area, Name: "idle time", Default: domain.LimitTime(IdleTimeout),
			Of: "a connection between requests", AtLimit: "the connection is closed", Change: "fixed: guests close theirs after 60 s, so that no request runs into it"},
		{Area: area, Name: "lingering", Default: domain.LimitTime(lingerTime),
			Of: "a connection behind its last answer, while the guest still sends; " + domain.LimitBytes(lingerBytes) + " are read at most", AtLimit: "the connection is closed", Change: fixed},
		{Area: area, Name: "names", Default: "addresses, and names without a dot",
			Of: "the Host header", AtLimit: "421 at all endpoints, not at proxies; in the log", Change: "Environment.Hosts, httpserver.Config.Hosts, serve --host-name"},
	}
}
