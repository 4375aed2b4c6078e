package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	ledgerbench "github.com/retrace-ledger/retrace/ledger/bench"
	lineagebench "github.com/retrace-ledger/retrace/lineage/bench"
)

func (a *app) benchCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine, as ratios against a named baseline in the same run",
		Long: `Measure. Both sides of each ratio take turns in one run, on the same disk, so
that a ratio can be quoted where a figure of a busy machine cannot.`,
		Example: "  retrace bench append\n  retrace bench lineage -o json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.benchAppendCmd(), a.benchGrowthCmd(), a.benchLineageCmd(), a.benchSnapshotCmd())
	return cmd
}

// inScratch runs fn with a temporary folder on the disk of the working
// directory, where a ledger would be.
func inScratch(fn func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(".", "retrace-bench-")
	if err != nil {
		return cannot(err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return fn(dir)
}

func (a *app) benchAppendCmd() *cobra.Command {
	var callers []int
	var entries int
	cmd := &cobra.Command{
		Use:   "append",
		Short: "Durable, provable appends against raw Badger writes of the same bytes",
		Long: `Append envelopes of about 1.7 KB one a call from 1, 64 and 1,024 callers, each
durable under a signed checkpoint before the call returns. The baseline commits
the same keys and bytes in the same batches to a bare Badger store, with one
4 KiB fdatasync a commit. The two take turns; a ratio is the median of the rounds.

PER SECOND is with statements checked beforehand. CHECKED decodes each statement
in the call, as "retrace record" does, and verifies the signature by its
producer's key; SHARE is that of PER SECOND.`,
		Example: "  retrace bench append\n  retrace bench append --callers 64 --entries 20000 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			for _, n := range callers {
				if n < 1 || n > 100000 {
					return cannot(fmt.Errorf("--callers %d: want 1 to 100000", n))
				}
			}
			return inScratch(func(dir string) error {
				var results []ledgerbench.Result
				for _, n := range callers {
					r, err := ledgerbench.Append(cmd.Context(), dir, []int{n}, entriesFor(n, entries))
					if err != nil {
						return cannot(err)
					}
					results = append(results, r...)
				}
				return a.printAppend(cmd, results)
			})
		},
	}
	cmd.Flags().IntSliceVar(&callers, "callers", []int{1, 64, 1024}, "numbers of concurrent callers")
	cmd.Flags().IntVar(&entries, "entries", 0, "entries in each round (default 500 a caller, 1,000 to 20,000)")
	return cmd
}

// entriesFor is how many entries a round has: enough to fill batches, few
// enough to end soon.
func entriesFor(callers, asked int) int {
	if asked > 0 {
		return asked
	}
	return min(max(1000, 500*callers), 20000)
}

func (a *app) printAppend(cmd *cobra.Command, results []ledgerbench.Result) error {
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]any{"results": results})
	}
	t := newTable(cmd.OutOrStdout(), "CALLERS", "PER SECOND", "RAW BADGER", "RATIO", "P50", "P99", "CHECKED", "RATIO", "SHARE")
	for _, r := range results {
		t.row(fmt.Sprint(r.Callers), fmt.Sprintf("%.0f", r.PerSecond), fmt.Sprintf("%.0f", r.RawPerSecond), fmt.Sprintf("%.2f", r.Ratio),
			fmt.Sprintf("%.2f ms", r.P50Ms), fmt.Sprintf("%.2f ms", r.P99Ms), fmt.Sprintf("%.0f", r.Checking), fmt.Sprintf("%.2f", r.CheckingRatio), fmt.Sprintf("%.2f", r.CheckingShare))
	}
	return t.flush()
}

func (a *app) benchLineageCmd() *cobra.Command {
	var models int
	cmd := &cobra.Command{
		Use:   "lineage",
		Short: "All ancestors of a model, against a walk over a Go map in memory",
		Long: `Record synthetic models, each with a commit, parameters, an image, shared
snapshots, six steps and mostly an earlier model, and ask for all ancestors of
random ones from the warm index. The baseline is a breadth-first walk over the
same graph in a Go map; the two take turns.`,
		Example: "  retrace bench lineage --models 10000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return inScratch(func(dir string) error { return a.benchLineage(cmd.Context(), cmd, dir, models) })
		},
	}
	cmd.Flags().IntVar(&models, "models", 10000, "how many models")
	return cmd
}

func (a *app) benchLineage(ctx context.Context, cmd *cobra.Command, dir string, models int) error {
	results, err := lineagebench.Lineage(ctx, dir, models)
	if err != nil {
		return cannot(err)
	}
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]any{"results": results})
	}
	t := newTable(cmd.OutOrStdout(), "MODELS", "NODES", "EDGES", "P50", "P99", "MAP P50", "MAP P99", "RATIO")
	for _, r := range results {
		us := func(v float64) string { return fmt.Sprintf("%.0f µs", v) }
		t.row(fmt.Sprint(r.Models), fmt.Sprint(r.Nodes), fmt.Sprint(r.Edges), us(r.P50Us), us(r.P99Us), us(r.MapP50Us), us(r.MapP99Us), fmt.Sprintf("%.2f", r.Ratio))
	}
	return t.flush()
}
