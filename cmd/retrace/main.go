package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(execute())
}

// execute is main without the exit, so that scripts can test it.
func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintf(os.Stderr, "retrace: %s\n", msg)
		if hint := hintFor(err); hint != "" {
			fmt.Fprintf(os.Stderr, "retrace: hint: %s\n", hint)
		}
	}
	return exitStatus(err)
}

const rootLong = `retrace records what went into a machine-learning model, answers what produced
it, with proof, and puts it back.

  record   run, watch, snapshot, record      facts go into an append-only signed ledger
  ask      lineage, diff, gaps, show, …      each answer says the ledger size it speaks for
  prove    prove, verify, audit, fsck        with the public key log.vkey and nothing else
  restore  restore, reproduce                inputs laid out, steps run again, outputs compared

A ledger lives in the folder .retrace of the working directory or of a parent,
as with git; --dir or RETRACE_DIR names another.`

func newRoot() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:           "retrace",
		Short:         "What produced this model? Is what runs what was recorded? Put it back.",
		Long:          rootLong,
		Example:       "  retrace demo\n  retrace run --in data --out model.bin --model forecast -- python train.py\n  retrace lineage forecast",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.dir, "dir", os.Getenv("RETRACE_DIR"), "the ledger's directory (default .retrace here or in a parent)")
	flags.StringVar(&a.server, "server", os.Getenv("RETRACE_SERVER"), "URL of a remote ledger")
	flags.StringVarP(&a.output, "output", "o", "table", "table or json; lineage takes dot, mermaid and svg too")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cannot(err) })
	root.AddCommand(
		a.initCmd(), a.runCmd(), a.watchCmd(), a.snapshotCmd(), a.recordCmd(),
		a.modelsCmd(), a.logCmd(), a.showCmd(), a.namesCmd(), a.historyCmd(),
		a.lineageCmd(), a.diffCmd(), a.gapsCmd(),
		a.proveCmd(), a.verifyCmd(), a.auditCmd(),
		a.restoreCmd(), a.reproduceCmd(),
		a.serveCmd(), a.keysCmd(), a.fsckCmd(), a.benchCmd(), a.demoCmd(), demoStepCmd(), a.versionCmd(),
	)
	for _, c := range root.Commands() {
		withExitStatus(c)
	}
	return root
}

const statusText = `EXIT STATUS
  0  it is so, or it is done
  1  it was checked and is not so
  2  it could not be done or checked`

// withExitStatus ends the help of a command, and of those below it, with the
// meaning of its exit status.
func withExitStatus(c *cobra.Command) {
	text := statusText
	if c.Name() == "run" {
		text = "EXIT STATUS\n  the command's own; 128+n if signal n ended it; 125 if retrace itself failed;\n  126 if the command could not be run, 127 if it was not found"
	}
	if c.Long == "" {
		c.Long = c.Short + "."
	}
	c.Long += "\n\n" + text
	for _, sub := range c.Commands() {
		withExitStatus(sub)
	}
}
