package wsshell

import "github.com/hexworker/metaservice/domain"

// LimitRows are the rows of this package's limits.
func LimitRows() []domain.LimitRow {
	const (
		fixed = "fixed: the protocol says so"
		ends  = "the shell is broken off, and its caller is told why; in the log"
	)
	return []domain.LimitRow{
		{Area: domain.AreaShells, Name: "message", Default: domain.LimitBytes(domain.ShellMessage), Of: "one message of version 1; with shell2 a block of " + domain.LimitBytes(domain.Shell2Block), AtLimit: ends, Change: fixed},
		{Area: domain.AreaShells, Name: "window", Default: domain.LimitBytes(domain.ShellWindow), Of: "in flight in a stream until its receiver grants more: up to " + domain.LimitBytes(domain.ShellAhead) + " from version 1, " + domain.LimitBytes(domain.Shell2Window) + " with shell2", AtLimit: ends, Change: fixed},
		{Area: domain.AreaShells, Name: "frames of no use", Default: domain.LimitBytes(looseRate) + "/s", Of: "pings, empty fragments, unknown messages; and " + domain.LimitBytes(looseRoom) + " at once", AtLimit: ends, Change: "fixed: a peer that is well sends a ping every 15 s"},
		{Area: domain.AreaShells, Name: "control frame", Default: domain.LimitBytes(maxControl), Of: "its payload", AtLimit: ends, Change: "fixed: RFC 6455, section 5.5"},
		{Area: domain.AreaShells, Name: "silence", Default: domain.LimitTime(maxSilence), Of: "without an answer to the host's own pings, or Silence where that is set", AtLimit: ends, Change: "Silence"},
		{Area: domain.AreaShells, Name: "write", Default: domain.LimitTime(writeTimeout), Of: "one write to a guest that doesn't read", AtLimit: ends, Change: fixed},
		{Area: domain.AreaShells, Name: "end", Default: domain.LimitTime(abortLinger), Of: "from an abort until the guest says that it ended the shell; " + domain.LimitTime(exitLinger) + " from its exit until it hangs up", AtLimit: "the connection is closed", Change: fixed},
	}
}
