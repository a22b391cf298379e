package domain_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hexworker/metaservice/domain"
)

func TestRefusalsAreToldApartByTheirCodeAlone(t *testing.T) {
	conflict := &domain.Error{Code: domain.CodeResourceConflict, Message: "resolved"}
	tests := map[string]struct {
		err, target error
		want        bool
	}{
		"the same":             {conflict, conflict, true},
		"another message":      {conflict, &domain.Error{Code: domain.CodeResourceConflict}, true},
		"wrapped":              {fmt.Errorf("resolving: %w", conflict), &domain.Error{Code: domain.CodeResourceConflict}, true},
		"another code":         {conflict, &domain.Error{Code: domain.CodeInternalError, Message: "resolved"}, false},
		"another error":        {conflict, domain.ErrConflict, false},
		"the other way round":  {domain.ErrConflict, conflict, false},
		"a refusal in nothing": {nil, conflict, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := errors.Is(test.err, test.target); got != test.want {
				t.Errorf("errors.Is(%v, %v) is %v", test.err, test.target, got)
			}
		})
	}
}

func TestRefusalInWords(t *testing.T) {
	tests := map[string]struct {
		err  domain.Error
		want string
	}{
		"plain":             {domain.Error{Code: domain.CodeUnknownActionID, Message: "no such action"}, `UnknownActionId: "no such action"`},
		"a hostile message": {domain.Error{Code: domain.CodeForbidden, Message: "\x1b[2J"}, `Forbidden: "\x1b[2J"`},
		"a hostile code":    {domain.Error{Code: "\x1b[2J\n", Message: "m"}, `"\x1b[2J\n": "m"`},
		"an endless code":   {domain.Error{Code: domain.Code(strings.Repeat("x", 2000))}, `"` + strings.Repeat("x", 1024) + `…": ""`},
		"nothing":           {domain.Error{}, `: ""`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := test.err.Error(); got != test.want {
				t.Errorf("%s\nis not\n%s", got, test.want)
			}
		})
	}
}

func TestLimitErrorNamesTheLimitToRaise(t *testing.T) {
	var err error = &domain.LimitError{Limit: "ListEntries", Max: 1000, Unit: "names"}
	if want := "more than the 1000 names that the limit ListEntries allows"; err.Error() != want {
		t.Errorf("%q is not %q", err, want)
	}
	var limit *domain.LimitError
	if wrapped := fmt.Errorf("listing: %w", err); !errors.As(wrapped, &limit) || limit.Max != 1000 {
		t.Errorf("it isn't found in %v", wrapped)
	}
}
