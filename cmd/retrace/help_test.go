package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// everyCommand calls fn for each command that people see.
func everyCommand(c *cobra.Command, fn func(*cobra.Command)) {
	if c.Hidden {
		return
	}
	fn(c)
	for _, sub := range c.Commands() {
		everyCommand(sub, fn)
	}
}

// TestHelp holds the help of every command to DESIGN 7.1: it ends with the exit
// status and an example that begins with the command.
func TestHelp(t *testing.T) {
	everyCommand(newRoot(), func(c *cobra.Command) {
		var out bytes.Buffer
		c.SetOut(&out)
		help(c, nil)
		text := out.String()
		status, example := strings.Index(text, "\nEXIT STATUS\n"), strings.Index(text, "\nEXAMPLE\n")
		switch {
		case c.Short == "" && c.HasParent():
			t.Errorf("%s has no short text", c.CommandPath())
		case status < 0 && !c.IsAdditionalHelpTopicCommand():
			t.Errorf("help of %s does not say its exit status", c.CommandPath())
		case example < status || !strings.Contains(text[example+1:], "retrace"):
			t.Errorf("help of %s does not end with an example:\n%s", c.CommandPath(), text)
		}
		for line := range strings.Lines(text) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 120 {
				t.Errorf("help of %s has a line of %d characters: %s", c.CommandPath(), n, line)
			}
		}
		name := strings.Fields(c.CommandPath())[min(1, len(strings.Fields(c.CommandPath()))-1)]
		if c.HasParent() && !c.IsAdditionalHelpTopicCommand() && !strings.Contains(c.Example, name) {
			t.Errorf("the example of %s does not show it: %s", c.CommandPath(), c.Example)
		}
	})
}

// TestHelpGroups holds the list of commands in the help of the root to the
// commands that there are.
func TestHelpGroups(t *testing.T) {
	listed := map[string]int{"help": 1, "refs": 1}
	for _, g := range groups {
		for _, name := range g.commands {
			listed[name]++
		}
	}
	for _, c := range newRoot().Commands() {
		if !c.Hidden && listed[c.Name()] != 1 {
			t.Errorf("help of retrace lists %s %d times", c.Name(), listed[c.Name()])
		}
		delete(listed, c.Name())
	}
	if len(listed) > 0 {
		t.Errorf("help of retrace lists what is no command: %v", listed)
	}
}

// TestExamples parses the examples: every flag and command in them exists.
func TestExamples(t *testing.T) {
	everyCommand(newRoot(), func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			words := strings.Fields(strings.TrimSpace(line))
			if len(words) == 0 || words[0] != "retrace" {
				continue
			}
			sub, rest, err := newRoot().Find(words[1:])
			if err != nil {
				t.Errorf("example of %s: %s: %v", c.CommandPath(), line, err)
				continue
			}
			for _, word := range rest {
				if word == "--" || strings.HasPrefix(word, ">") {
					break
				}
				name, isFlag := strings.CutPrefix(word, "--")
				name, _, _ = strings.Cut(name, "=")
				if isFlag && sub.Flag(name) == nil && sub.InheritedFlags().Lookup(name) == nil {
					t.Errorf("example of %s: %s: %s has no flag --%s", c.CommandPath(), line, sub.CommandPath(), name)
				}
			}
		}
	})
}
