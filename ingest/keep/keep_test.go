package keep

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestKept(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", text, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for name, test := range map[string]struct {
		keep  Rules
		times []string // UTC
		want  []string
	}{
		"nothing there": {Rules{Last: 1}, nil, nil},
		"last":          {Rules{Last: 2}, []string{"2026-01-01 10:00", "2026-01-01 10:10", "2026-01-01 10:20"}, []string{"", "last", "last"}},
		"more than there are": {
			Rules{Last: 9}, []string{"2026-01-01 10:00"}, []string{"last"},
		},
		"the newest of each hour, hours without any left out": {
			Rules{Hourly: 3},
			[]string{"2026-01-01 06:50", "2026-01-01 07:10", "2026-01-01 07:50", "2026-01-01 10:00", "2026-01-01 11:59", "2026-01-01 12:00"},
			[]string{"", "", "", "hourly", "hourly", "hourly"},
		},
		"days and hours together": {
			Rules{Hourly: 1, Daily: 2},
			[]string{"2026-01-01 10:00", "2026-01-02 09:00", "2026-01-02 23:59", "2026-01-03 00:00"},
			[]string{"", "", "daily", "hourly daily"},
		},
		"weeks over the turn of the year": { // 2026-12-28 is the Monday of week 53
			Rules{Weekly: 3},
			[]string{"2026-12-27 12:00", "2026-12-28 12:00", "2027-01-03 12:00", "2027-01-04 12:00"},
			[]string{"weekly", "", "weekly", "weekly"},
		},
		"months": {
			Rules{Monthly: 2},
			[]string{"2026-01-31 23:59", "2026-02-28 10:00", "2026-03-01 00:00"},
			[]string{"", "monthly", "monthly"},
		},
		"within, from the newest": {
			Rules{Within: Span(72 * time.Hour)},
			[]string{"2026-01-01 09:59", "2026-01-01 10:00", "2026-01-04 10:00"},
			[]string{"", "within", "within"},
		},
		// 2026-10-25 03:00 in Berlin is 02:00 again: two hours, not one.
		"the hour that comes twice": {
			Rules{Hourly: 4},
			[]string{"2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"},
			[]string{"hourly", "hourly", "hourly"},
		},
		// 2026-03-29 02:00 in Berlin is 03:00: none is missing.
		"the hour that is left out": {
			Rules{Hourly: 2},
			[]string{"2026-03-29 00:30", "2026-03-29 01:30"},
			[]string{"hourly", "hourly"},
		},
		"a clock that was set back": {
			Rules{Last: 1, Daily: 2},
			[]string{"2026-01-03 10:00", "2026-01-01 10:00", "2026-01-02 10:00"},
			[]string{"last daily", "", "daily"},
		},
		"a clock that was a year ahead once": {
			Rules{Last: 1, Hourly: 2},
			[]string{"2027-01-01 10:00", "2026-01-01 10:00", "2026-01-01 11:00"},
			[]string{"last hourly", "", "hourly"},
		},
		"the same time twice": {
			Rules{Last: 1},
			[]string{"2026-01-01 10:00", "2026-01-01 10:00"},
			[]string{"", "last"},
		},
	} {
		var times, local []time.Time
		for _, text := range test.times {
			times, local = append(times, at(text)), append(local, at(text).In(berlin))
		}
		for _, in := range [][]time.Time{times, local} {
			var got []string
			for _, why := range test.keep.Kept(in) {
				got = append(got, strings.Join(why, " "))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

// Whatever the times: the newest stays if any rule counts, no rule keeps more
// than it says, and what is let go one by one is what is let go at once.
func TestKeptProperties(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		keep := Rules{Last: random.IntN(4), Hourly: random.IntN(5), Daily: random.IntN(5), Weekly: random.IntN(3), Monthly: random.IntN(3)}
		if keep == (Rules{}) {
			keep.Last = 1
		}
		var times, running []time.Time
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for range 200 {
			now = now.Add(time.Duration(random.IntN(600)) * time.Minute)
			times = append(times, now)
			running = append(running, now)
			kept := keep.Kept(running)
			i := -1
			running = slices.DeleteFunc(running, func(time.Time) bool { i++; return len(kept[i]) == 0 })
		}
		var atOnce []time.Time
		kept := keep.Kept(times)
		for i, why := range kept {
			if len(why) > 0 {
				atOnce = append(atOnce, times[i])
			}
		}
		if len(kept[len(kept)-1]) == 0 {
			t.Errorf("%s: the newest goes", keep)
		}
		if n := keep.Last + keep.Hourly + keep.Daily + keep.Weekly + keep.Monthly; len(atOnce) > n {
			t.Errorf("%s keeps %d of 200, want at most %d", keep, len(atOnce), n)
		}
		if diff := cmp.Diff(atOnce, running); diff != "" {
			t.Errorf("%s: at once, and one by one (-at once +one by one):\n%s", keep, diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"last":1,"hourly":2,"daily":3,"weekly":4,"monthly":5,"within":"72h0m0s"}`)
	f.Add(`{"within":"30d"}`)
	f.Add(`{`)
	f.Fuzz(func(t *testing.T, text string) {
		k, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(k.String()); err != nil || again != k {
			t.Errorf("Parse(%q) = %v, written %s, read as %v, %v", text, k, k, again, err)
		}
	})
}
