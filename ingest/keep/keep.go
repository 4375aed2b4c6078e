// Package keep decides which of many snapshots stay.
package keep

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Rules say which snapshots stay: each rule keeps some, and one that no rule
// keeps goes. Hours and days are those of UTC.
type Rules struct {
	Last    int `json:"last,omitzero"`    // so many of the newest
	Hourly  int `json:"hourly,omitzero"`  // the newest of each of so many hours that have one
	Daily   int `json:"daily,omitzero"`   // of days
	Weekly  int `json:"weekly,omitzero"`  // of weeks, which begin on Monday (ISO 8601)
	Monthly int `json:"monthly,omitzero"` // of months
}

// Check refuses rules that keep nothing.
func (r Rules) Check() error {
	for name, n := range map[string]int{"last": r.Last, "hourly": r.Hourly, "daily": r.Daily, "weekly": r.Weekly, "monthly": r.Monthly} {
		if n < 0 {
			return fmt.Errorf("%s: %d is negative", name, n)
		}
	}
	if r == (Rules{}) {
		return fmt.Errorf("it keeps nothing: want at least one of last, hourly, daily, weekly and monthly")
	}
	return nil
}

// String is the rules in words, such as "last 3, daily 7".
func (r Rules) String() string {
	var parts []string
	for _, p := range []struct {
		name string
		n    int
	}{{"last", r.Last}, {"hourly", r.Hourly}, {"daily", r.Daily}, {"weekly", r.Weekly}, {"monthly", r.Monthly}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", p.name, p.n))
		}
	}
	return strings.Join(parts, ", ")
}

// Kept says of snapshots taken at the given times, in any order, which rules keep
// each; one that none keeps has none. It depends on the times alone: where no new
// ones are taken, none goes.
func (r Rules) Kept(times []time.Time) [][]string {
	newest := make([]int, len(times)) // first
	for i := range newest {
		newest[i] = i
	}
	slices.SortStableFunc(newest, func(a, b int) int { return times[b].Compare(times[a]) })
	kept := make([][]string, len(times))
	for _, rule := range []struct {
		name   string
		n      int
		period func(t time.Time) string
	}{
		{"last", r.Last, func(t time.Time) string { return "" }},
		{"hourly", r.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15") }},
		{"daily", r.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"weekly", r.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, "W", w) }},
		{"monthly", r.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	} {
		left, last := rule.n, ""
		for _, i := range newest {
			if left == 0 {
				break
			}
			if p := rule.period(times[i].UTC()); p == "" || p != last {
				last = p
				left--
				kept[i] = append(kept[i], rule.name)
			}
		}
	}
	return kept
}
