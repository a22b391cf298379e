package domain_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

func TestLimitsWithDefaults(t *testing.T) {
	tests := map[string]struct {
		given domain.Limits
		want  func(*domain.Limits) // what is other than the defaults
	}{
		"nothing given":  {domain.Limits{}, func(*domain.Limits) {}},
		"the defaults":   {domain.Defaults(), func(*domain.Limits) {}},
		"one of each":    {domain.Limits{LogBytes: 1, Offer: time.Nanosecond, Polls: 1}, func(l *domain.Limits) { l.LogBytes, l.Offer, l.Polls = 1, time.Nanosecond, 1 }},
		"a shorter hold": {domain.Limits{Hold: time.Second, Silence: time.Second}, func(l *domain.Limits) { l.Hold, l.Silence = time.Second, time.Second }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want := domain.Defaults()
			want.DiskFree = test.given.DiskFree // of which the disk decides
			test.want(&want)
			got, err := test.given.WithDefaults()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestLimitsThatCannotBeAreNamedAtOnce(t *testing.T) {
	tests := map[string]struct {
		given domain.Limits
		says  []string
	}{
		"all of them": {
			domain.Limits{
				ArtifactBytes: -1, ListEntries: -1, ListBytes: -1, LogBytes: -1, Stall: -1, Floor: -1, Offer: -1, Reply: -1,
				Hold: -1, Silence: -1, LogEnd: -1, Actions: -1, Polls: -1, Tries: -1, Shells: -1, ShellBytes: -1,
				Requests: -1, RequestBurst: -1, DiskFree: -1,
			},
			[]string{
				"ArtifactBytes is -1", "ListEntries is", "ListBytes is", "LogBytes is", "Stall is -1ns", "Floor is", "Offer is",
				"Reply is", "Hold is", "Silence is", "LogEnd is", "Actions is", "Polls is", "Tries is -1, it must be more than 0 (0 means the default, 3)",
				"Shells is -1", "ShellBytes is -1", "Requests is -1", "RequestBurst is -1", "DiskFree is -1",
			},
		},
		"a hold that old guests don't wait for": {domain.Limits{Hold: domain.MaxHold + 1}, []string{"Hold is 30.000000001s, old guests give a poll up after 35 s, so the most is 30s"}},
		"of which the silence is not to blame":  {domain.Limits{Hold: time.Minute}, []string{"Hold is 1m0s"}},
		"a silence shorter than a poll":         {domain.Limits{Hold: 2, Silence: 1}, []string{"Silence is 1ns, shorter than the Hold of 2ns"}},
		"less silence than none, told once":     {domain.Limits{Silence: -1}, []string{"Silence is -1ns, it must be more than 0"}},
		"shorter than the default":              {domain.Limits{Silence: time.Second}, []string{"Silence is 1s, shorter than the Hold of 30s"}},
		"both":                                  {domain.Limits{Hold: time.Hour, Silence: time.Second}, []string{"Hold is 1h0m0s", "Silence is 1s"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := test.given.WithDefaults()
			if !errors.Is(err, domain.ErrInvalidLimits) {
				t.Fatalf("the error is %v", err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.says) {
				t.Fatalf("it should name %d defects: %q", len(test.says), lines)
			}
			for i, says := range test.says {
				if !strings.HasPrefix(lines[i], "invalid limits: "+says) {
					t.Errorf("%q does not say %q", lines[i], says)
				}
			}
		})
	}
}
