package domain_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/hexworker/metaservice/domain"
)

// The table has a row for each field, and no other, with the default that the code goes by.
func TestEachLimitHasItsRow(t *testing.T) {
	rows := make(map[string]domain.LimitRow)
	for _, row := range domain.LimitRows() {
		if _, twice := rows[row.Name]; twice {
			t.Errorf("%s is there twice", row.Name)
		}
		rows[row.Name] = row
		if row.Area == "" || row.Default == "" || row.Of == "" || row.AtLimit == "" || row.Change != domain.ByLimit {
			t.Errorf("the row of %s says too little: %+v", row.Name, row)
		}
	}
	defaults := reflect.ValueOf(domain.Defaults())
	for i := range defaults.NumField() {
		name := defaults.Type().Field(i).Name
		row, there := rows[name]
		delete(rows, name)
		var texts []string
		switch value := defaults.Field(i).Interface().(type) {
		case time.Duration:
			texts = []string{domain.LimitTime(value)}
		case int:
			texts = []string{domain.LimitCount(int64(value)), domain.LimitCount(int64(value)) + "/s"}
		case int64:
			texts = []string{domain.LimitCount(value), domain.LimitBytes(value), domain.LimitBytes(value) + "/s"}
		}
		matches := false
		for _, text := range texts {
			matches = matches || row.Default == text
		}
		if !there || !matches {
			t.Errorf("the row of %s says %q, not one of %q", name, row.Default, texts)
		}
	}
	for name := range rows {
		t.Errorf("%s is no limit", name)
	}
}

func TestLimitsInWords(t *testing.T) {
	for got, want := range map[string]string{
		domain.LimitBytes(1):                      "1 bytes",
		domain.LimitBytes(1000):                   "1,000 bytes",
		domain.LimitBytes(64 << 10):               "64 KiB",
		domain.LimitBytes(1536):                   "1,536 bytes",
		domain.LimitBytes(1<<20 + 1<<10):          "1,025 KiB",
		domain.LimitBytes(256 << 30):              "256 GiB",
		domain.LimitBytes(1 << 60):                "1,048,576 TiB",
		domain.LimitCount(0):                      "0",
		domain.LimitCount(999):                    "999",
		domain.LimitCount(-100000):                "-100,000",
		domain.LimitCount(1000000):                "1,000,000",
		domain.LimitTime(30 * time.Second):        "30 s",
		domain.LimitTime(15 * time.Minute):        "15 min",
		domain.LimitTime(75 * time.Second):        "75 s",
		domain.LimitTime(1500 * time.Millisecond): "1.5s",
		domain.LimitTime(100 * time.Millisecond):  "100ms",
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
