package host

import "github.com/hexworker/metaservice/domain"

// LimitRows are the rows of the use cases' own limits.
func LimitRows() []domain.LimitRow {
	return []domain.LimitRow{
		{Area: domain.AreaLog, Name: "dropped log", Default: domain.LimitBytes(drainRate) + "/s", Of: "what is read of a log only to be dropped", AtLimit: "the guest's writes wait", Change: "fixed: it costs a hundredth of a core"},
		{Area: domain.AreaLog, Name: "log pieces", Default: domain.LimitCount(logPieces) + "/s", Of: "reads of a log that bring less than " + domain.LimitBytes(logPiece) + ", and " + domain.LimitCount(logPieceBurst) + " at once after a rest", AtLimit: "the next one waits, and brings more", Change: "fixed: they cost a twentieth of a core"},
		{Area: domain.AreaLog, Name: "log buffers", Default: domain.LimitCount(maxLogBlocks), Of: "log bodies that are read 1 MiB at a time", AtLimit: "one more is read " + domain.LimitBytes(logCrowded) + " at a time", Change: "fixed: it holds for each guest by itself"},
		{Area: domain.AreaFiles, Name: "files at a time", Default: domain.LimitCount(collectors), Of: "fetched of one folder, or stored and handled as its archive comes", AtLimit: "the next one waits", Change: "fixed: more are no faster"},
		{Area: domain.AreaFiles, Name: "failures in a row", Default: domain.LimitCount(maxFailures), Of: "files of one folder that could not be fetched", AtLimit: "the rest of the folder isn't tried; the caller's error tells", Change: "fixed: a guest that is gone costs no more than these"},
		{Area: domain.AreaTimes, Name: "log's turn", Default: domain.LimitTime(logTurn), Of: "a log that waits since it is one request too many", AtLimit: "see Requests", Change: "fixed: of the unclaimed connections that there may be none waits for so long"},
		{Area: domain.AreaTimes, Name: "stopped poll", Default: domain.LimitTime(stoppedPoll), Of: "a poll once polls are stopped", AtLimit: "it is answered: none", Change: "fixed: an old guest asks again at once"},
	}
}
