package domain

import (
	"errors"
	"fmt"
	"time"
)

// Limits bounds what a guest can make its host do. The zero value of a field means its default.
type Limits struct {
	ArtifactBytes int64 // of one artifact; default 64 GiB
	FolderBytes   int64 // of all files of one folder that is brought out; default 256 GiB
	ListEntries   int64 // names in one folder's list, or entries of its archive; default 1,000,000
	ListBytes     int64 // of one folder's list on the wire, or what its archive has beside content; default 256 MiB
	LogBytes      int64 // of a task's log; default 1 GiB. What comes after is dropped, and told in the result

	// Stall is for how long a body may bring less than Floor; default 30 s. It doesn't bind logs,
	// which may be silent for as long as the task is.
	Stall time.Duration
	Floor int64 // bytes a second, averaged over Stall; default 1 KiB/s

	Offer   time.Duration // for a poll to take an action; default 30 s
	Reply   time.Duration // for a guest to answer one it took; default 30 s
	Hold    time.Duration // of a poll with nothing to do; default 30 s, and old guests allow no more
	Silence time.Duration // without a poll or an open request until a guest is lost; default 45 s
	LogEnd  time.Duration // for open log bodies to end once the task has its result; default 10 s

	Actions int // waiting at once, for a poll or a reply; default 4,096
	Polls   int // parked at once; default 4: a guest's tools have 3, and one may have died unnoticed. One more ends the oldest
	Logs    int // log bodies open at once; default 64. One more is refused, and may be tried again

	Tries int // of one action; default 3

	Shells int // open at once; default 256. One more is refused
	// ShellBytes is what the shells of one guest may hold together of what it has sent and nobody has read;
	// default 16 MiB. Each output's first 64 KiB count too, and are granted all the same where nothing is left.
	ShellBytes int64

	// Requests is how many requests a guest may make in a second, RequestBurst how many at once after a rest;
	// default 50 and 200. What the host asked for doesn't count: replies, and the polls that brought their
	// actions. One more is refused for now, and its connection closed. Logs are counted by themselves, and wait.
	Requests     int
	RequestBurst int

	// DiskFree is what must stay free where artifacts are kept, as far as that can be told; default 1 GiB, or
	// a twentieth of the disk where that is less. So 1 GiB that somebody has set is not the default.
	DiskFree int64
}

// Defaults returns the limits that hold where nothing else is said.
func Defaults() Limits {
	return Limits{
		ArtifactBytes: 64 << 30,
		FolderBytes:   256 << 30,
		ListEntries:   1_000_000,
		ListBytes:     256 << 20,
		LogBytes:      1 << 30,
		Stall:         30 * time.Second,
		Floor:         1 << 10,
		Offer:         30 * time.Second,
		Reply:         30 * time.Second,
		Hold:          MaxHold,
		Silence:       45 * time.Second,
		LogEnd:        10 * time.Second,
		Actions:       4096,
		Polls:         4,
		Logs:          64,
		Tries:         3,
		Shells:        256,
		ShellBytes:    16 << 20,
		Requests:      50,
		RequestBurst:  200,
		DiskFree:      1 << 30,
	}
}

// MaxHold is the longest that a poll may hang: a guest of version 1 gives it up after 35 s.
const MaxHold = 30 * time.Second

// ErrInvalidLimits is a limit that can't be.
var ErrInvalidLimits = errors.New("invalid limits")

// WithDefaults fills in the defaults, and names every field that can't be. DiskFree stays as it is: KeepFree knows.
func (l Limits) WithDefaults() (Limits, error) {
	d := Defaults()
	var errs []error
	errs = append(errs,
		fill("ArtifactBytes", &l.ArtifactBytes, d.ArtifactBytes),
		fill("FolderBytes", &l.FolderBytes, d.FolderBytes),
		fill("ListEntries", &l.ListEntries, d.ListEntries),
		fill("ListBytes", &l.ListBytes, d.ListBytes),
		fill("LogBytes", &l.LogBytes, d.LogBytes),
		fill("Stall", &l.Stall, d.Stall),
		fill("Floor", &l.Floor, d.Floor),
		fill("Offer", &l.Offer, d.Offer),
		fill("Reply", &l.Reply, d.Reply),
		fill("Hold", &l.Hold, d.Hold),
		fill("Silence", &l.Silence, d.Silence),
		fill("LogEnd", &l.LogEnd, d.LogEnd),
		fill("Actions", &l.Actions, d.Actions),
		fill("Polls", &l.Polls, d.Polls),
		fill("Logs", &l.Logs, d.Logs),
		fill("Tries", &l.Tries, d.Tries),
		fill("Shells", &l.Shells, d.Shells),
		fill("ShellBytes", &l.ShellBytes, d.ShellBytes),
		fill("Requests", &l.Requests, d.Requests),
		fill("RequestBurst", &l.RequestBurst, d.RequestBurst),
		fill("DiskFree", new(l.DiskFree), d.DiskFree),
	)
	if l.Hold > MaxHold {
		errs = append(errs, fmt.Errorf("%w: Hold is %s, old guests give a poll up after 35 s, so the most is %s", ErrInvalidLimits, l.Hold, MaxHold))
	}
	if l.Silence > 0 && l.Silence < min(l.Hold, MaxHold) { // a Hold above the most is at fault itself
		errs = append(errs, fmt.Errorf("%w: Silence is %s, shorter than the Hold of %s", ErrInvalidLimits, l.Silence, l.Hold))
	}
	return l, errors.Join(errs...)
}

// KeepFree is how much of a disk of so many bytes must stay free.
func (l Limits) KeepFree(disk int64) int64 {
	if l.DiskFree == 0 {
		return min(Defaults().DiskFree, disk/20)
	}
	return l.DiskFree
}

func fill[T int | int64 | time.Duration](name string, field *T, def T) error {
	if *field == 0 {
		*field = def
	}
	if *field < 0 {
		return fmt.Errorf("%w: %s is %v, it must be more than 0 (0 means the default, %v)", ErrInvalidLimits, name, *field, def)
	}
	return nil
}
