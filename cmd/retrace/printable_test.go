package main

import "testing"

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"weather.csv ✓":       "weather.csv ✓",
		"a\x1b[2Jb":           "a\ufffd[2Jb",
		"a\u009b2Jb":          "a\ufffd2Jb",
		"safe\u202egpj.exe":   "safe\ufffdgpj.exe",
		"\u2066x\u2069\u200f": "\ufffdx\ufffd\ufffd",
		"a\nb\xff":            "a\ufffdb\ufffd",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}
