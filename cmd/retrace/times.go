package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseTime reads a TIME (DESIGN 7.1): RFC 3339, a local date and time, a
// local date, or "2h ago". The zero time stands for an empty text.
func parseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if span, ok := strings.CutSuffix(text, " ago"); ok {
		d, err := parseSpan(strings.TrimSpace(span))
		if err != nil {
			return time.Time{}, fmt.Errorf("%q is not a time: %w", text, err)
		}
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time: want RFC 3339 (2026-11-03T14:00:00Z), a local date and time (2026-11-03 14:00), or a span (2h ago)", text)
}

// parseSpan reads a Go duration, or days and weeks such as 3d and 2w.
func parseSpan(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a span of time such as 90m, 2h, 3d or 1w", s)
	units := map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour}
	if n := len(s); n > 1 && units[s[n-1:]] > 0 {
		count, err := strconv.ParseFloat(s[:n-1], 64)
		span := count * float64(units[s[n-1:]])
		if err != nil || !(span >= 0 && span < math.MaxInt64) {
			return 0, bad
		}
		return time.Duration(span), nil
	}
	span, err := time.ParseDuration(s)
	if err != nil || span < 0 {
		return 0, bad
	}
	return span, nil
}
