package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestRunbookCommands holds the commands that sections of docs/runbook.md show
// to the scripts that follow them.
func TestRunbookCommands(t *testing.T) {
	raw, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, file := range map[string]string{
		"Short":       "testdata/runbook_short.txtar",
		"Damaged":     "testdata/runbook_damaged.txtar",
		"Fork":        "testdata/runbook_fork.txtar",
		"Key lost":    "testdata/runbook_key_lost.txtar",
		"Rolled back": "testdata/runbook_rolled_back.txtar",
	} {
		_, section, ok := strings.Cut(string(raw), "\n## "+heading+"\n")
		if !ok {
			t.Fatalf("docs/runbook.md has no section %s", heading)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		script, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		commands := regexp.MustCompile(`(?m)^\$ (.*)$`).FindAllStringSubmatch(section, -1)
		if len(commands) == 0 {
			t.Errorf("section %s shows no command", heading)
		}
		for _, c := range commands {
			if !regexp.MustCompile(`(?m)^(exec|exits \d) ` + regexp.QuoteMeta(c[1]) + `$`).Match(script) {
				t.Errorf("section %s says `%s`, and %s does not run it", heading, c[1], file)
			}
		}
	}
}
