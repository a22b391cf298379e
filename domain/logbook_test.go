package domain_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

func TestLogBookLimit(t *testing.T) {
	tests := map[string]struct {
		limit      int64
		take, keep []int
		bytes, cut int64
	}{
		"nothing came":      {5, nil, nil, 0, 0},
		"below the limit":   {5, []int{2, 2}, []int{2, 2}, 4, 0},
		"at the limit":      {5, []int{2, 3}, []int{2, 3}, 5, 0},
		"above it":          {5, []int{2, 4}, []int{2, 3}, 5, 1},
		"after it":          {5, []int{5, 3, 1}, []int{5, 0, 0}, 5, 4},
		"all at once":       {5, []int{100}, []int{5}, 5, 95},
		"empty chunks":      {5, []int{0, 5, 0}, []int{0, 5, 0}, 5, 0},
		"without any limit": {0, []int{1 << 30, 1 << 30, 1 << 30}, []int{1 << 30, 1 << 30, 1 << 30}, 3 << 30, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			book := domain.NewLogBook(test.limit)
			for i, n := range test.take {
				if keep := book.Take(n); keep != test.keep[i] {
					t.Errorf("of %d bytes in chunk %d it keeps %d, not %d", n, i, keep, test.keep[i])
				}
			}
			s := book.Summary()
			if s.Bytes != test.bytes || s.Cut != test.cut || s.Broken != nil || s.Complete() != (test.cut == 0) {
				t.Errorf("the account is %+v, complete %v", s, s.Complete())
			}
		})
	}
}

func TestLogBookBodies(t *testing.T) {
	broke, disk := errors.New("connection reset"), errors.New("disk full")
	tests := map[string]struct {
		does   func(*domain.LogBook)
		open   int
		causes []error
		says   string
	}{
		"none":               {func(*domain.LogBook) {}, 0, nil, ""},
		"a whole one":        {func(l *domain.LogBook) { l.Begin(); l.End(nil) }, 0, nil, ""},
		"one that broke off": {func(l *domain.LogBook) { l.Begin(); l.End(broke) }, 0, []error{broke}, "connection reset"},
		"then a whole one":   {func(l *domain.LogBook) { l.Begin(); l.End(broke); l.Begin(); l.End(nil) }, 0, []error{broke}, "connection reset"},
		"the sink failed":    {func(l *domain.LogBook) { l.Fail(disk) }, 0, []error{disk}, "disk full"},
		"no failure":         {func(l *domain.LogBook) { l.Fail(nil) }, 0, nil, ""},
		"open at the end":    {func(l *domain.LogBook) { l.Begin(); l.Begin(); l.End(nil) }, 1, nil, "1 log bodies had not ended"},
		"all of these":       {func(l *domain.LogBook) { l.Begin(); l.Begin(); l.Begin(); l.End(broke); l.Fail(disk) }, 2, []error{broke, disk}, "2 log bodies had not ended"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			book := domain.NewLogBook(0)
			test.does(book)
			if book.Open() != test.open {
				t.Errorf("%d bodies are open, not %d", book.Open(), test.open)
			}
			s := book.Summary()
			if s.Complete() != (test.says == "") || (s.Broken == nil) != (test.says == "") {
				t.Fatalf("the account is %+v, complete %v", s, s.Complete())
			}
			for _, cause := range test.causes {
				if !errors.Is(s.Broken, cause) {
					t.Errorf("%v is without %q", s.Broken, cause)
				}
			}
			if test.says != "" && !strings.Contains(s.Broken.Error(), test.says) {
				t.Errorf("%q does not say %q", s.Broken, test.says)
			}
		})
	}
}

// A sink that failed has not taken what Take let through.
func TestLogBookTakesBackWhatWasNotWritten(t *testing.T) {
	book := domain.NewLogBook(5)
	book.Take(4)
	book.Take(4)
	book.Unwrite(1)
	book.Fail(domain.ErrLog)
	s := book.Summary()
	if s.Bytes != 4 || s.Cut != 3 || !errors.Is(s.Broken, domain.ErrLog) {
		t.Errorf("the account is %+v", s)
	}
}

// A guest can break off as many bodies as it likes: the host remembers the first few.
func TestLogBookKeepsFewReasons(t *testing.T) {
	book := domain.NewLogBook(0)
	for i := range 1000 {
		book.Begin()
		book.End(fmt.Errorf("reason %d", i))
	}
	lines := strings.Split(book.Summary().Broken.Error(), "\n")
	if len(lines) != 9 || lines[0] != "reason 0" || lines[7] != "reason 7" || lines[8] != "and 992 more reasons" {
		t.Errorf("it keeps %q", lines)
	}
}

func TestLogBookTellsTheSameReasonOnce(t *testing.T) {
	book := domain.NewLogBook(0)
	for range 1000 {
		book.Begin()
		book.End(fmt.Errorf("%w: full", domain.ErrLog))
	}
	broken := book.Summary().Broken
	if !errors.Is(broken, domain.ErrLog) || strings.Count(broken.Error(), "full") != 1 || !strings.Contains(broken.Error(), "1000 times") {
		t.Errorf("it tells %v", broken)
	}
}

// taskModel is Resolution and LogBook, for a limit of 2 bytes, written down again as plainly as can be.
type taskModel struct {
	result      string // "", "success" or "failed"
	open, bytes int
	broken      bool
}

// Every sequence of six events of a task, against the model. There are no more states than these
// events can make, but for larger numbers of the same.
func TestTaskAgainstModel(t *testing.T) {
	const length, limit = 6, 2
	broke := errors.New("connection reset")
	events := []string{"success", "failed", "begin", "end", "break", "take 1", "take 2"}

	run := func(sequence []string) error {
		var resolution domain.Resolution
		book := domain.NewLogBook(limit)
		var model taskModel
		for _, event := range sequence {
			switch event {
			case "success", "failed":
				first, err := resolution.Resolve(domain.Result{Success: event == "success"})
				if first != (model.result == "") {
					return fmt.Errorf("first is %v", first)
				}
				if first {
					model.result = event
				}
				if conflict := model.result != event; errors.Is(err, domain.ErrConflict) != conflict || (err != nil) != conflict {
					return fmt.Errorf("the error is %v", err)
				}
			case "begin":
				book.Begin()
				model.open++
			case "end", "break":
				if model.open == 0 {
					return nil // no body to end: such a sequence doesn't happen
				}
				model.open--
				if event == "end" {
					book.End(nil)
				} else {
					book.End(broke)
					model.broken = true
				}
			case "take 1", "take 2":
				n := int(event[len(event)-1] - '0')
				if keep, want := book.Take(n), max(0, min(n, limit-model.bytes)); keep != want {
					return fmt.Errorf("it keeps %d, not %d", keep, want)
				}
				model.bytes += n
			}
		}
		log := book.Summary()
		whole := !model.broken && model.open == 0
		if book.Open() != model.open || log.Bytes != int64(min(model.bytes, limit)) || log.Cut != int64(max(0, model.bytes-limit)) {
			return fmt.Errorf("the account is %+v with %d open", log, book.Open())
		}
		if (log.Broken == nil) != whole || log.Complete() != (whole && model.bytes <= limit) || errors.Is(log.Broken, broke) != model.broken {
			return fmt.Errorf("the account is %+v, complete %v", log, log.Complete())
		}
		result, ok := resolution.Result()
		if ok != (model.result != "") || result.Success != (model.result == "success") {
			return fmt.Errorf("the result is %+v, %v", result, ok)
		}
		if ok {
			if o := domain.Resolved(result, log); o.Succeeded() != (model.result == "success" && whole) || errors.Is(o.Err, domain.ErrLogIncomplete) == whole {
				return fmt.Errorf("the outcome is %+v", o)
			}
		}
		return nil
	}

	var walk func(sequence []string)
	walk = func(sequence []string) {
		if err := run(sequence); err != nil {
			t.Fatalf("after %q: %v", sequence, err)
		}
		if len(sequence) == length {
			return
		}
		for _, event := range events {
			walk(append(sequence[:len(sequence):len(sequence)], event))
		}
	}
	walk(nil)
}
