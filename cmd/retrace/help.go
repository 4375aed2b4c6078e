package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// groups are the commands as help lists them.
var groups = []struct {
	title    string
	commands []string
}{
	{"RECORD", []string{"run", "watch", "snapshot", "record"}},
	{"ASK", []string{"models", "lineage", "diff", "gaps", "impact", "coverage", "show", "log", "names", "history", "export"}},
	{"PROVE", []string{"prove", "verify", "audit", "attest", "retract", "fsck"}},
	{"PUT BACK", []string{"restore", "revert", "reproduce"}},
	{"COPY", []string{"backup", "import", "mirror", "recover"}},
	{"KEEP", []string{"init", "serve", "config", "sources", "keys", "tokens", "erase", "demo", "bench", "version", "completion"}},
}

const refsLong = `A REF says which resource is meant:

  forecast  forecast@3           a model; without @VERSION its newest version
  model:forecast@3               the same
  sha256:0f3a77c1…               a digest, or a prefix of one with eight digits or more
  git:1f3c9a72  git:main         a commit, or a branch or tag
  image:HOST/REPOSITORY:TAG      an image; @sha256:… instead of the tag names its digest
  snapshot:dir:///srv/data       the newest snapshot of a folder
  run:a6d441409f7bac29           a run by its ID, or a prefix of it
  step:26                        the step that entry 26 states
  entry:26  #26                  an entry of the ledger
  s3://bucket/key                a location that was recorded
  ./model.bin  ../data  /srv/x   a file or folder here; it is hashed

A TIME is RFC 3339 (2026-11-03T14:00:00Z), a local date and time (2026-11-03 14:00,
or the date alone), or a span before now (90m ago, 2h ago, 3d ago, 1w ago).`

// refsCmd is a topic of help.
func refsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "refs", Short: "How to write a REF and a TIME", Long: refsLong,
		Example: "  retrace show git:1f3c9a72\n  retrace lineage forecast --at '2h ago'",
	}
}

const (
	statusText = `EXIT STATUS
  0  it is so, or it is done
  1  it was checked and is not so
  2  it could not be done or checked`
	runStatusText = `EXIT STATUS
  the command's own; 128+n if signal n ended it; 125 if retrace itself failed;
  126 if the command could not be run, 127 if it was not found`
)

// help prints what a command does, and ends with its exit status and an
// example.
func help(c *cobra.Command, _ []string) {
	w := c.OutOrStdout()
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	fmt.Fprintln(w, strings.TrimSpace(long))
	topic := c.IsAdditionalHelpTopicCommand()
	if !topic {
		fmt.Fprintf(w, "\nUSAGE\n  %s\n", useLine(c))
	}
	if strings.Contains(c.Use, "REF") {
		fmt.Fprintln(w, "\n  REF and TIME: see `retrace help refs`.")
	}
	if c.HasParent() {
		listCommands(w, "COMMANDS", c.Commands())
	} else {
		listGroups(w, c)
	}
	if !topic {
		listFlags(w, c)
		status := statusText
		if c.Name() == "run" {
			status = runStatusText
		}
		fmt.Fprintf(w, "\n%s\n", status)
	}
	if c.HasExample() {
		fmt.Fprintf(w, "\nEXAMPLE\n%s\n", c.Example)
	}
}

// useLine is how a command is called.
func useLine(c *cobra.Command) string {
	if !c.HasParent() {
		return c.Name() + " COMMAND"
	}
	line := c.CommandPath() + strings.TrimPrefix(c.Use, c.Name())
	if len(c.Commands()) > 0 {
		line += " [COMMAND]"
	}
	return line
}

// checkArgs makes commands say what arguments they want when they get others.
func checkArgs(c *cobra.Command) {
	for _, sub := range c.Commands() {
		checkArgs(sub)
	}
	want := c.Args
	if want == nil || c.Name() == "run" || !c.HasParent() {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := want(c, args); err != nil {
			return &hinted{cannot(fmt.Errorf("%s: %s given", c.Name(), count(len(args), "argument", "arguments"))), "usage: " + useLine(c)}
		}
		return nil
	}
}

// unknownCommand refuses arguments of the root, which are commands that there
// are not.
func unknownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "`retrace help` lists the commands"
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return &hinted{cannot(fmt.Errorf("there is no command %q", args[0])), hint}
}

// listGroups lists the commands of the root by what they are for.
func listGroups(w io.Writer, root *cobra.Command) {
	for _, g := range groups {
		var cs []*cobra.Command
		for _, name := range g.commands {
			if c, _, err := root.Find([]string{name}); err == nil && c != root {
				cs = append(cs, c)
			}
		}
		listCommands(w, g.title, cs)
	}
	for _, c := range root.Commands() {
		if c.IsAdditionalHelpTopicCommand() {
			listCommands(w, "HELP", []*cobra.Command{c})
		}
	}
}

func listCommands(w io.Writer, title string, cs []*cobra.Command) {
	for i, c := range cs {
		if i == 0 {
			fmt.Fprintf(w, "\n%s\n", title)
		}
		fmt.Fprintf(w, "  %-10s  %s\n", c.Name(), c.Short)
	}
}

func listFlags(w io.Writer, c *cobra.Command) {
	if local := c.LocalFlags().FlagUsages(); local != "" {
		fmt.Fprintf(w, "\nFLAGS\n%s", local)
	}
	if inherited := c.InheritedFlags().FlagUsages(); inherited != "" {
		fmt.Fprintf(w, "\nFLAGS OF ALL COMMANDS\n%s", inherited)
	}
}

// explainDefaults gives examples to the commands that cobra makes.
func explainDefaults(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Example = "  retrace help run"
		case "completion":
			c.Example = "  source <(retrace completion bash)"
			c.Short = "Print a script that completes commands in a shell"
			for _, shell := range c.Commands() {
				shell.Example = fmt.Sprintf("  source <(retrace completion %s)", shell.Name())
			}
		}
	}
}
