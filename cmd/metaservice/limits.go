package main

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/hexworker/metaservice/domain"
)

// limitNames are the fields of domain.Limits, which --limit sets by their names.
func limitNames() []string {
	limits := reflect.TypeFor[domain.Limits]()
	names := make([]string, limits.NumField())
	for i := range names {
		names[i] = limits.Field(i).Name
	}
	return names
}

// parseLimits reads what --limit says, NAME=VALUE; of two with the same name the later one counts.
func parseLimits(given []string) (domain.Limits, error) {
	var limits domain.Limits
	for _, text := range given {
		name, value, both := strings.Cut(text, "=")
		if !both {
			return domain.Limits{}, usagef("--limit %s: it must be NAME=VALUE", domain.Quote(text))
		}
		if !slices.Contains(limitNames(), name) {
			return domain.Limits{}, usagef("--limit %s: there is no such limit; the limits are %s", domain.Quote(text), strings.Join(limitNames(), ", "))
		}
		field := reflect.ValueOf(&limits).Elem().FieldByName(name)
		if err := setLimit(field.Addr().Interface(), value); err != nil {
			return domain.Limits{}, usagef("--limit %s: %w", domain.Quote(text), err)
		}
		if field.IsZero() { // which would mean the default
			return domain.Limits{}, usagef("--limit %s: it must be more than 0", domain.Quote(text))
		}
	}
	if _, err := limits.WithDefaults(); err != nil {
		return domain.Limits{}, usagef("--limit: %w", err)
	}
	return limits, nil
}

// setLimit sets a field by its type.
func setLimit(field any, value string) error {
	switch field := field.(type) {
	case *time.Duration:
		d, err := time.ParseDuration(value)
		if err != nil {
			return errors.New("it is a time, such as 90s or 1h30m")
		}
		*field = d
	case *int:
		n, err := strconv.Atoi(value)
		if err != nil {
			return errors.New("it is a whole number")
		}
		*field = n
	case *int64:
		n, err := humanize.ParseBytes(value)
		if err != nil || n > math.MaxInt64 {
			return errors.New("it is a number, with or without a unit: 500000, 64KiB, 10GiB")
		}
		*field = int64(n)
	default:
		panic(fmt.Sprintf("no way to set a limit of the type %T", field)) // a test sets every field
	}
	return nil
}

// withHint tells of an error that a limit brought about how to raise that.
func withHint(err error) error {
	limit, ok := errors.AsType[*domain.LimitError](err)
	if !ok || !slices.Contains(limitNames(), limit.Limit) {
		return err
	}
	return fmt.Errorf("%w; raise it with --limit %s=…", err, limit.Limit)
}
