package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// runDemo tells the whole story with other data for the second version and
// other code for the third, and returns what it printed. Its steps run this
// test binary as retrace.
func runDemo(t *testing.T, secondData func([]byte) []byte, thirdCode func(string) string) (*demo, string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Fatal(err)
		}
		t.Skip("git is not installed")
	}
	self, err := exec.LookPath("retrace")
	if err != nil {
		t.Fatal(err)
	}
	data, err := demoFiles.ReadFile("demo/weather.csv")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	d := &demo{root: t.TempDir(), out: &out, self: self, data: data, secondData: secondData, thirdCode: thirdCode, start: time.Now()}
	if err := d.run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return d, out.String()
}

// command runs retrace on the demo's ledger.
func (d *demo) command(t *testing.T, args ...string) (out string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), d.self, args...)
	cmd.Dir = d.root
	cmd.Env = append(os.Environ(), "RETRACE_DIR="+d.path("ledger"), "RETRACE_SERVER=")
	raw, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(raw), cmd.ProcessState.ExitCode()
}

// another returns a copy of a program with another digest.
func another(t *testing.T, program string) string {
	t.Helper()
	raw, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), filepath.Base(program))
	if err := os.WriteFile(copied, append(raw, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	return copied
}

// causes are the kinds of difference that diff names as causes.
func (d *demo) causes(t *testing.T, left, right string) []string {
	t.Helper()
	out, status := d.command(t, "diff", left, right)
	if status > 1 {
		t.Fatalf("diff %s %s ended with status %d:\n%s", left, right, status, out)
	}
	var kinds []string
	for _, line := range regexp.MustCompile(`(?m)^CAUSE +(\S+)`).FindAllStringSubmatch(out, -1) {
		kinds = append(kinds, line[1])
	}
	return kinds
}

func expect(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(text) {
			t.Errorf("the demo did not print %s:\n%s", p, text)
			return
		}
	}
}

// TestDemoData alters one byte of the data of the second version, and nothing
// else: the data is the one cause between the first and the second, and there
// is none between the second and the third.
func TestDemoData(t *testing.T) {
	t.Parallel()
	d, out := runDemo(t, func(data []byte) []byte {
		data = firstPart(data)
		day := data[bytes.LastIndexByte(data[:len(data)-1], '\n')+1:]
		high := bytes.Split(day, []byte(","))[2] // temp_max
		digit := &high[len(high)-1]
		*digit = '0' + (*digit-'0'+1)%10
		return data
	}, func(code string) string { return code })
	if got := d.causes(t, "forecast@1", "forecast@2"); strings.Join(got, " ") != "input" {
		t.Errorf("causes of version 2 = %q, want the input alone", got)
	}
	if got := d.causes(t, "forecast@2", "forecast@3"); len(got) > 0 {
		t.Errorf("causes of version 3 = %q, want none", got)
	}
	expect(t, out,
		`^CAUSE +input +data `,
		`^OK: forecast-3\.bundle holds for forecast@3$`,
		`^PASS .*demo/trainer@sha256:`,
		`^FAIL .*demo/server@sha256:`,
		`^COMPLETE: `,
		`^BIT_EXACT: 3 steps were run again and made 3 outputs with the recorded digests$`,
		`^ledger: `,
		`copy is damaged`,
	)
	for _, line := range regexp.MustCompile(`(?m)^  (\S+/retrace|retrace) (--dir .*)$`).FindAllStringSubmatch(out, -1) {
		if text, status := d.command(t, strings.Fields(line[2])[2:]...); status != 0 {
			t.Errorf("retrace %s, printed to go on with, ended with status %d:\n%s", line[2], status, text)
		}
	}
}

// TestDemoCode leaves the data as it was and alters one line of code for the
// third version: the code is the one cause. Then a step that does nothing must
// not pass for one that made the same.
func TestDemoCode(t *testing.T) {
	t.Parallel()
	d, out := runDemo(t, firstPart, addLag)
	if got := d.causes(t, "forecast@1", "forecast@2"); len(got) > 0 {
		t.Errorf("causes of version 2 = %q, want none", got)
	}
	if got := d.causes(t, "forecast@2", "forecast@3"); strings.Join(got, " ") != "code" {
		t.Errorf("causes of version 3 = %q, want the code alone", got)
	}
	expect(t, out, `^CAUSE +code +`, `lags \[1, 2, 7\]`, `^BIT_EXACT: `)

	if err := os.WriteFile(d.bin, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d.self = another(t, d.self) // reproduce finds the program that ran by its digest, also as itself
	text, status := d.command(t, "reproduce", "forecast@1", "--yes")
	if status == 0 || strings.Contains(text, "BIT_EXACT") || !regexp.MustCompile(`(?m)^(DIVERGED|NOT_REPLAYABLE): `).MatchString(text) {
		t.Errorf("reproduce with a step that does nothing ended with status %d:\n%s", status, text)
	}
}
