package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

func TestLimitsOfTheCommandLine(t *testing.T) {
	got, err := parseLimits([]string{"ArtifactBytes=10GiB", "Stall=1m", "ListEntries=5000", "Tries=7", "LogBytes=1.5kB", "Tries=1"})
	want := domain.Limits{ArtifactBytes: 10 << 30, Stall: time.Minute, ListEntries: 5000, LogBytes: 1500, Tries: 1}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for wrong, says := range map[string]string{
		"":                                    "it must be NAME=VALUE",
		"LogBytes":                            "it must be NAME=VALUE",
		"Bytes=1":                             "the limits are ArtifactBytes, ",
		"logbytes=1":                          "the limits are ArtifactBytes, ",
		"LogBytes=":                           "with or without a unit",
		"LogBytes=much":                       "with or without a unit",
		"LogBytes=-1":                         "with or without a unit",
		"LogBytes=9EiB":                       "with or without a unit",
		"LogBytes=0":                          "more than 0",
		"Stall=60":                            "it is a time",
		"Stall=0s":                            "more than 0",
		"Stall=-1s":                           "Stall is -1s, it must be more than 0",
		"Tries=1.5":                           "a whole number",
		"Tries=-1":                            "Tries is -1, it must be more than 0",
		"Hold=1m":                             "the most is 30s",
		"Silence=10s":                         "shorter than the Hold",
		"Tries=99999999999999999999999999999": "a whole number",
	} {
		if _, err := parseLimits([]string{wrong}); !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v does not say %q", wrong, err, says)
		}
	}
}

// A limit that a guest can hit and nobody can raise is a wall: a field that is new is settable, too.
func TestEveryLimitCanBeSet(t *testing.T) {
	for _, name := range limitNames() {
		for _, value := range []string{"25", "25s"} {
			limits, err := parseLimits([]string{name + "=" + value, "Hold=1s", "Silence=45s"})
			if err == nil && limits != (domain.Limits{}) {
				break
			}
			if value == "25s" {
				t.Errorf("%s can't be set: %v", name, err)
			}
		}
	}
}

func TestErrorsOfLimitsTellHowToRaiseThem(t *testing.T) {
	other := errors.New("other")
	for _, test := range []struct {
		err  error
		want string
	}{
		{other, "other"},
		{fmt.Errorf("list: %w", errors.Join(other, &domain.LimitError{Limit: "ListBytes", Max: 7, Unit: "bytes"})),
			"list: other\nmore than the 7 bytes that the limit ListBytes allows; raise it with --limit ListBytes=…"},
		{&domain.LimitError{Limit: "MaxThing", Max: 7, Unit: "bytes"}, "more than the 7 bytes that the limit MaxThing allows"},
	} {
		if got := withHint(test.err); got.Error() != test.want || !errors.Is(got, test.err) {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}
