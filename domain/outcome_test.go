package domain_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hexworker/metaservice/domain"
)

func TestResolved(t *testing.T) {
	broke := errors.New("connection reset")
	report := &domain.Report{Reason: domain.ReasonExited}
	tests := map[string]struct {
		result domain.Result
		log    domain.LogSummary
		status domain.Status
		causes []error // the error has them all; none where there is no error
	}{
		"success":                     {domain.Result{Success: true, Report: report}, domain.LogSummary{Bytes: 7}, domain.StatusSuccess, nil},
		"failure":                     {domain.Result{}, domain.LogSummary{Bytes: 7}, domain.StatusFailed, nil},
		"half a log is no success":    {domain.Result{Success: true}, domain.LogSummary{Bytes: 7, Broken: broke}, domain.StatusFailed, []error{domain.ErrLogIncomplete, broke}},
		"a failure tells of it too":   {domain.Result{Report: report}, domain.LogSummary{Broken: broke}, domain.StatusFailed, []error{domain.ErrLogIncomplete, broke}},
		"a log at its limit is whole": {domain.Result{Success: true}, domain.LogSummary{Bytes: 7, Cut: 1}, domain.StatusSuccess, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := domain.Resolved(test.result, test.log)
			if o.Status != test.status || o.Succeeded() != (test.status == domain.StatusSuccess) {
				t.Errorf("the status is %s, succeeded %v", o.Status, o.Succeeded())
			}
			if o.Result == nil || *o.Result != test.result || o.Report() != test.result.Report || o.Log != test.log {
				t.Errorf("%+v does not hold what was told", o)
			}
			if (o.Err != nil) != (len(test.causes) > 0) {
				t.Errorf("the error is %v", o.Err)
			}
			for _, cause := range test.causes {
				if !errors.Is(o.Err, cause) {
					t.Errorf("the error is %v, without %q", o.Err, cause)
				}
			}
		})
	}
}

func TestOutcomeWithoutResult(t *testing.T) {
	for status := domain.StatusNone; status <= domain.StatusMachineDied; status++ {
		o := domain.Outcome{Status: status}
		if o.Report() != nil {
			t.Errorf("%s has a report of nobody", status)
		}
		if got := o.Succeeded(); got != (status == domain.StatusSuccess) {
			t.Errorf("%s: succeeded is %v", status, got)
		}
	}
}

// Programs read these words.
func TestStatusTexts(t *testing.T) {
	var got []string
	for status := domain.StatusNone; status <= domain.StatusMachineDied+1; status++ {
		text, err := status.MarshalText()
		if err != nil || string(text) != status.String() {
			t.Errorf("%s is written %q, %v", status, text, err)
		}
		got = append(got, string(text))
	}
	want := []string{"none", "success", "failed", "killed", "aborted", "timed-out", "guest-lost", "machine-died", "status(8)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
