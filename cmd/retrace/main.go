package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ledger"
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
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			msg = "interrupted: " + msg
		}
		fmt.Fprintf(os.Stderr, "retrace: %s\n", message(err, msg))
		if hint := hintFor(err); hint != "" {
			fmt.Fprintf(os.Stderr, "retrace: hint: %s\n", hint)
		}
	}
	return exitStatus(err)
}

// message is what people read of an error. The two notes of a fork or
// a rollback are evidence that somebody will want to copy, so their lines stay
// lines.
func message(err error, msg string) string {
	var fork *ledger.ForkError
	var behind *ledger.BehindError
	var back *ledger.RollbackError
	if !errors.As(err, &fork) && !errors.As(err, &behind) && !errors.As(err, &back) {
		return printable(msg)
	}
	lines := strings.Split(msg, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

const rootLong = `retrace records what went into a machine-learning model, answers what produced
it, with proof, and puts it back. Facts go into an append-only signed ledger; each
answer says the ledger size it speaks for.

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
		Args:          unknownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		// SuggestionsFor finds nothing without it.
		SuggestionsMinimumDistance: 2,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.dir, "dir", os.Getenv("RETRACE_DIR"), "`DIR` of the ledger (default .retrace here or in a parent)")
	flags.StringVar(&a.server, "server", os.Getenv("RETRACE_SERVER"), "`URL` of a remote ledger")
	flags.StringVarP(&a.output, "output", "o", "table", "`FORMAT`: table or json; lineage takes dot, mermaid and svg too")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cannot(err) })
	root.AddCommand(
		a.initCmd(), a.runCmd(), a.watchCmd(), a.snapshotCmd(), a.recordCmd(),
		a.modelsCmd(), a.logCmd(), a.showCmd(), a.namesCmd(), a.historyCmd(),
		a.lineageCmd(), a.diffCmd(), a.gapsCmd(), a.impactCmd(), a.exportCmd(),
		a.proveCmd(), a.verifyCmd(), a.auditCmd(), a.attestCmd(), a.retractCmd(),
		a.restoreCmd(), a.revertCmd(), a.reproduceCmd(),
		a.backupCmd(), a.importCmd(), a.mirrorCmd(), a.recoverCmd(),
		a.serveCmd(), a.configCmd(), a.sourcesCmd(), a.coverageCmd(), a.eraseCmd(), a.keysCmd(), a.tokensCmd(), a.fsckCmd(), a.benchCmd(), a.demoCmd(), demoStepCmd(), a.versionCmd(),
	)
	root.AddCommand(refsCmd())
	root.SetHelpFunc(help)
	explainDefaults(root)
	checkArgs(root)
	return root
}
