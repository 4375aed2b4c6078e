// Package keep decides which of many snapshots stay.
package keep

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Rules are those by which snapshots stay, as users of restic and kopia know
// them. A snapshot stays if any of them keeps it.
type Rules struct {
	Last    int `json:"last,omitempty"`    // the newest so many
	Hourly  int `json:"hourly,omitempty"`  // the newest of each of the last so many hours that have one
	Daily   int `json:"daily,omitempty"`   // of days
	Weekly  int `json:"weekly,omitempty"`  // of weeks, Monday to Sunday (ISO 8601)
	Monthly int `json:"monthly,omitempty"` // of months
	// Within keeps all that are not older than the newest one by more.
	Within Span `json:"within,omitempty"`
}

// Span is a time.Duration, written as such in JSON: "72h".
type Span time.Duration

// MarshalText writes the span.
func (s Span) MarshalText() ([]byte, error) { return []byte(time.Duration(s).String()), nil }

// UnmarshalText reads a span: hours, minutes and seconds as Go writes them, or a
// number of days as "30d".
func (s *Span) UnmarshalText(text []byte) error {
	var d time.Duration
	var err error
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		var n int
		if _, err = fmt.Sscanf(days+" ", "%d ", &n); err == nil && (fmt.Sprint(n) != days || n > 36500) {
			err = errors.New("not a number of days")
		}
		d = time.Duration(n) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(string(text))
	}
	if err != nil {
		return fmt.Errorf("%q is not a span such as 72h or 30d", text)
	}
	*s = Span(d)
	return nil
}

// Check refuses rules that keep nothing, or are none.
func (k Rules) Check() error {
	for _, n := range []struct {
		name  string
		value int64
	}{{"last", int64(k.Last)}, {"hourly", int64(k.Hourly)}, {"daily", int64(k.Daily)}, {"weekly", int64(k.Weekly)}, {"monthly", int64(k.Monthly)}, {"within", int64(k.Within)}} {
		if n.value < 0 {
			return fmt.Errorf("%s is negative", n.name)
		}
	}
	if k == (Rules{}) {
		return errors.New("it keeps nothing: give at least one of last, hourly, daily, weekly, monthly and within")
	}
	return nil
}

// String writes the rules as the configuration does.
func (k Rules) String() string {
	raw, err := json.Marshal(k)
	if err != nil {
		return err.Error() // numbers and a span: cannot be
	}
	return string(raw)
}

// Parse reads what String wrote.
func Parse(text string) (Rules, error) {
	var k Rules
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	err := dec.Decode(&k)
	if err == nil {
		err = k.Check()
	}
	if err != nil {
		return k, fmt.Errorf("reading keep rules %q: %w", text, err)
	}
	return k, nil
}

// Kept says for snapshots taken at the given times which rules keep each: none
// where the list is empty. Hours, days, weeks and months are those of UTC, so
// that no hour comes twice and every machine says the same. The order of times
// does not matter; where two are equal, the later in the list is the newer.
//
// Nothing depends on what time it is: when no snapshots are taken any more,
// because nothing changes or nobody looks, none of those that are there goes.
func (k Rules) Kept(times []time.Time) [][]string {
	kept := make([][]string, len(times))
	order := make([]int, len(times))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return times[a].Compare(times[b]) })
	slices.Reverse(order)
	rules := []struct {
		name   string
		left   int
		period func(time.Time) string
		last   string
	}{
		{"hourly", k.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15") }, ""},
		{"daily", k.Daily, func(t time.Time) string { return t.Format("2006-01-02") }, ""},
		{"weekly", k.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-%02d", y, w) }, ""},
		{"monthly", k.Monthly, func(t time.Time) string { return t.Format("2006-01") }, ""},
	}
	for n, i := range order {
		t := times[i].UTC()
		if n < k.Last {
			kept[i] = append(kept[i], "last")
		}
		for r := range rules {
			rule := &rules[r]
			if p := rule.period(t); rule.left > 0 && p != rule.last {
				rule.last = p
				rule.left--
				kept[i] = append(kept[i], rule.name)
			}
		}
		if k.Within > 0 && times[order[0]].Sub(t) <= time.Duration(k.Within) {
			kept[i] = append(kept[i], "within")
		}
	}
	return kept
}
