package keep

import (
	"strings"
	"testing"
	"time"
)

// TestKept says of each time which rules keep it.
func TestKept(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rules Rules
		want  []string // "TIME: rules"
	}{
		{"nothing to keep", Rules{Last: 3}, nil},
		{"the last", Rules{Last: 2}, []string{"2026-08-01T10:00: ", "2026-08-01T10:10: last", "2026-08-01T10:20: last"}},
		{"in any order", Rules{Last: 1}, []string{"2026-08-01T10:20: last", "2026-08-01T10:00: ", "2026-08-01T10:10: "}},
		{"hours that have one", Rules{Hourly: 2}, []string{
			"2026-08-01T08:50: ", "2026-08-01T10:00: ", "2026-08-01T10:50: hourly", "2026-08-01T15:10: ", "2026-08-01T15:20: hourly",
		}},
		{"days and last", Rules{Last: 1, Daily: 2}, []string{
			"2026-07-30T23:59: ", "2026-07-31T00:00: ", "2026-07-31T23:59: daily", "2026-08-01T00:00: ", "2026-08-01T12:00: last daily",
		}},
		{"weeks begin on Monday, also over the year's end", Rules{Weekly: 2}, []string{
			"2026-12-27T12:00: weekly", "2026-12-28T12:00: ", "2027-01-03T12:00: weekly",
		}},
		{"months", Rules{Monthly: 12}, []string{"2026-01-31T12:00: monthly", "2026-02-01T12:00: ", "2026-02-28T12:00: monthly"}},
		{"two of one time", Rules{Last: 1}, []string{"2026-08-01T10:00: last", "2026-08-01T10:00: "}},
	} {
		var times []time.Time
		for _, line := range tt.want {
			at, err := time.Parse("2006-01-02T15:04", line[:16])
			if err != nil {
				t.Fatal(err)
			}
			// Elsewhere in the world it is another hour, and the same time.
			times = append(times, at.In(time.FixedZone("", 5*3600+1800)))
		}
		kept := tt.rules.Kept(times)
		for i, line := range tt.want {
			if got := line[:16] + ": " + strings.Join(kept[i], " "); got != line {
				t.Errorf("%s: %q, want %q", tt.name, got, line)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		rules Rules
		ok    bool
	}{{Rules{}, false}, {Rules{Last: -1, Daily: 1}, false}, {Rules{Monthly: 1}, true}} {
		if err := tt.rules.Check(); (err == nil) != tt.ok {
			t.Errorf("Check(%+v) = %v", tt.rules, err)
		}
	}
	if got := (Rules{Last: 3, Weekly: 2}).String(); got != "last 3, weekly 2" {
		t.Errorf("the rules are %q", got)
	}
}
