package domain

import (
	"fmt"
	"strconv"
	"time"
)

// LimitRow is one limit, for those who run hosts: docs/limits.md and `metaservice limits` are made of rows,
// and each row of what the code goes by.
type LimitRow struct {
	Area    string `json:"area"`    // what of the host it protects
	Name    string `json:"name"`    // the field of Limits, or what it bounds
	Default string `json:"default"` // with a unit
	Of      string `json:"of"`      // what it counts
	AtLimit string `json:"atLimit"` // what happens
	Change  string `json:"change"`  // how to, or why not
}

// ByLimit is the Change of a field of Limits.
const ByLimit = "--limit, Limits"

// LimitBytes writes bytes as a limit's default: 64 KiB.
func LimitBytes(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	at := 0
	for at < len(units)-1 && n >= 1<<10 && n%(1<<10) == 0 {
		n >>= 10
		at++
	}
	return LimitCount(n) + " " + units[at]
}

// LimitCount writes a number as a limit's default: 1,000,000.
func LimitCount(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// LimitTime writes a time as a limit's default: 30 s.
func LimitTime(d time.Duration) string {
	switch {
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d%time.Second == 0:
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return d.String()
}

// The areas of the fields of Limits.
const (
	AreaFiles    = "files and lists"
	AreaLog      = "the log"
	AreaTimes    = "time"
	AreaRequests = "requests"
	AreaShells   = "shells"
)

// LimitRows are the rows of all fields of Limits.
func LimitRows() []LimitRow {
	const (
		refused  = "413; the caller's error names it, and there is no second try"
		tryAgain = "the action has failed, which is told in the log; it is tried again, and the caller's error tells of each try"
	)
	d := Defaults()
	rows := []LimitRow{
		{AreaFiles, "ArtifactBytes", LimitBytes(d.ArtifactBytes), "one file", refused, ""},
		{AreaFiles, "FolderBytes", LimitBytes(d.FolderBytes), "all files of one folder that is brought out", "the rest of the folder isn't fetched, and the caller's error names it", ""},
		{AreaFiles, "ListEntries", LimitCount(d.ListEntries), "names in one folder's list, or entries of its archive", refused, ""},
		{AreaFiles, "ListBytes", LimitBytes(d.ListBytes), "one folder's list on the wire; of an archive, its names, its folders, and what it has beside content and 2 KiB for each other entry", refused, ""},
		{AreaFiles, "DiskFree", LimitBytes(d.DiskFree), "what stays free of the disk that artifacts are kept on, or a twentieth of it where that is less; looked at before each file and every 16 MiB; not on Windows",
			"500; the caller's error tells what is free, and there is no second try; in the log", ""},
		{AreaLog, "LogBytes", LimitBytes(d.LogBytes), "a task's log", "the rest is read slowly and dropped; how much, the outcome and the host's log tell", ""},
		{AreaLog, "Logs", LimitCount(int64(d.Logs)), "log bodies open at once", "503; in the log", ""},
		{AreaLog, "LogEnd", LimitTime(d.LogEnd), "from the result until open log bodies have ended", "the log is incomplete, which the outcome tells", ""},
		{AreaTimes, "Stall", LimitTime(d.Stall), "a reply's body that brings less than Floor", tryAgain, ""},
		{AreaTimes, "Floor", LimitBytes(d.Floor) + "/s", "what a reply's body must bring on average over Stall", "see Stall", ""},
		{AreaTimes, "Offer", LimitTime(d.Offer), "from an action's offer until a poll takes it", tryAgain, ""},
		{AreaTimes, "Reply", LimitTime(d.Reply), "from an action's delivery until its reply begins", tryAgain, ""},
		{AreaTimes, "Hold", LimitTime(d.Hold), "a poll with nothing to do; at most " + LimitTime(MaxHold) + ", since old guests give it up", "it is answered: none", ""},
		{AreaTimes, "Silence", LimitTime(d.Silence), "a guest that polled before, without a request open", "the guest is lost: the outcome and the log tell", ""},
		{AreaRequests, "Requests", LimitCount(int64(d.Requests)) + "/s", "requests; what the host asked for doesn't count; logs, those that show the token, and logs that do, have a bucket of their own each",
			"503 with Retry-After: 1, the connection is held for a second and closed; in the log. A log waits for its turn", ""},
		{AreaRequests, "RequestBurst", LimitCount(int64(d.RequestBurst)), "requests at once, after a rest", "see Requests", ""},
		{AreaRequests, "Actions", LimitCount(int64(d.Actions)), "actions that wait for a poll or a reply", "the caller's error", ""},
		{AreaRequests, "Polls", LimitCount(int64(d.Polls)), "polls parked at once", "the oldest is answered: none; in the log", ""},
		{AreaRequests, "Tries", LimitCount(int64(d.Tries)), "tries of one action", "the caller's error tells of each", ""},
		{AreaShells, "Shells", LimitCount(int64(d.Shells)), "shells open at once", "the caller's error", ""},
		{AreaShells, "ShellBytes", LimitBytes(d.ShellBytes), "what the guest has sent to all its shells and nobody has read, beyond 64 KiB of each output", "less is in flight: a shell is slower over a long way", ""},
	}
	for i := range rows {
		rows[i].Change = ByLimit
	}
	return rows
}
