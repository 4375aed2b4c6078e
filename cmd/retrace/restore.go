package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ingest/all"
	"github.com/retrace-ledger/retrace/ingest/s3"
	"github.com/retrace-ledger/retrace/restore"
	"github.com/retrace-ledger/retrace/schema"
)

func (a *app) restoreCmd() *cobra.Command {
	var q asked
	var to string
	var planOnly, overwrite bool
	cmd := &cobra.Command{
		Use:   "restore REF --to DIR",
		Short: "Lay out everything that produced a resource, and check every digest",
		Long: `Lay out everything that produced a resource in a new folder: for each step its
working root with commit, uncommitted changes and inputs (DIR/steps/NN-NAME), the
images as OCI layouts (DIR/images), and what was done (DIR/retrace.lock.json).
Every digest is checked afterwards, read again from disk, and the verdict is
recorded. What was interrupted goes on where it was.

With --plan nothing is written: the plan is shown.`,
		Example: "  retrace restore forecast@1 --plan\n  retrace restore forecast@1 --to /tmp/forecast-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if to == "" && !planOnly {
				return cannot(fmt.Errorf("--to DIR is needed: where shall %s be restored?", args[0]))
			}
			b, v, ref, err := a.ask(cmd.Context(), q, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			src := b.sources()
			plan, err := restore.NewPlan(cmd.Context(), v, ref, src, nil)
			if err != nil {
				return cannot(err)
			}
			if planOnly {
				return a.printPlan(cmd.OutOrStdout(), plan)
			}
			verdict, err := layOut(cmd.Context(), plan, to, src, &restore.RestoreOptions{Overwrite: overwrite})
			if err != nil {
				return cannot(err)
			}
			return a.finishRestore(cmd, b, verdict, to)
		},
	}
	q.flags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "`DIR` to restore to; must be empty, or an unfinished restoration of the same")
	cmd.Flags().BoolVar(&planOnly, "plan", false, "show what would be laid out, and change nothing")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace what stands in the places of the plan")
	return cmd
}

// sources are where the bytes of a plan come from: the content store, and the
// places that this ledger has watched.
func (b *book) sources() restore.Sources {
	src := restore.Sources{
		Fetchers: map[string]restore.Fetcher{},
		Digest:   content.Digest,
		MayFetch: b.mayFetch,
	}
	if b.store != nil {
		src.Content = b.store
	}
	for _, k := range all.Kinds() {
		if k.NewFetcher != nil {
			src.Fetchers[k.Name] = k.NewFetcher(b.env())
		}
	}
	return src
}

// mayFetch allows only sources that were watched: a statement's URI is data,
// and anyone who may submit one could name any address.
func (b *book) mayFetch(r schema.Resource) error {
	for _, source := range sourcesOf(r) {
		cursor, err := b.log.Cursor(context.Background(), schema.DefaultNamespace, source)
		if err != nil {
			return err
		}
		if cursor != "" {
			return nil
		}
	}
	return fmt.Errorf("%s is no source that this ledger watched; `retrace watch --once %s` makes it one", r.URI, r.URI)
}

// sourcesOf are the sources that a resource can have come from: objects lie
// below the place that is watched.
func sourcesOf(r schema.Resource) []string {
	if r.Kind != s3.Name {
		return []string{r.URI}
	}
	at, _, _ := strings.Cut(r.URI, "?")
	var sources []string
	for len(at) > len(s3.Name+"://") {
		sources = append(sources, at)
		at = at[:max(strings.LastIndexByte(at, '/'), 0)]
	}
	return sources
}

// layOut restores with a progress bar.
func layOut(ctx context.Context, plan *restore.Plan, dir string, src restore.Sources, opt *restore.RestoreOptions) (*restore.Verdict, error) {
	bar := newProgress(-1, "restoring")
	defer bar.finish()
	opt.Progress = func(p restore.Progress) { bar.set(int64(p.Done), int64(p.Total)) }
	return restore.Restore(ctx, plan, dir, src, opt)
}

func (a *app) finishRestore(cmd *cobra.Command, b *book, v *restore.Verdict, dir string) error {
	s, err := v.Statement()
	if err != nil {
		return err
	}
	entry := int64(-1)
	if b.observer != nil {
		receipt, err := b.record(cmd.Context(), "restore", []schema.Statement{s})
		if err != nil {
			return cannot(fmt.Errorf("restored to %s; recording the verdict: %w", dir, err))
		}
		entry = receipt.Entries[0].Index
	}
	w := cmd.OutOrStdout()
	if a.output == "json" {
		if err := printJSON(w, map[string]any{
			"ref": v.Ref, "dir": dir, "result": v.Result, "checked": v.Checked, "bytes": v.Bytes, "problems": append([]string{}, v.Problems...), "plan": v.PlanDigest, "entry": entry,
		}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(w, "%s: %s (%s) laid out in %s, every digest checked\n", v.Result, count(v.Checked, "item", "items"), byteCount(v.Bytes), printable(dir))
		for _, p := range v.Problems {
			fmt.Fprintf(w, "  not restored: %s\n", printable(p))
		}
		if entry >= 0 {
			fmt.Fprintf(w, "recorded as entry %d\n", entry)
		}
	}
	if v.Result != restore.Complete {
		return isFalse(fmt.Errorf("%s was not restored completely", v.Ref))
	}
	return nil
}

func (a *app) printPlan(w io.Writer, p *restore.Plan) error {
	if a.output == "json" {
		return printJSON(w, p)
	}
	for _, s := range p.Steps {
		fmt.Fprintf(w, "%s  (step %d, %s)\n", s.Place, s.Entry, s.Evidence)
		if len(s.Argv) > 0 {
			fmt.Fprintf(w, "  $ %s\n", printable(shellLine(s.Argv)))
		}
		if err := printItems(w, s.Items); err != nil {
			return err
		}
	}
	if len(p.Images) > 0 {
		fmt.Fprintln(w, "images")
		if err := printItems(w, p.Images); err != nil {
			return err
		}
	}
	if p.Resource != nil {
		fmt.Fprintln(w, "the resource itself")
		if err := printItems(w, []restore.Item{*p.Resource}); err != nil {
			return err
		}
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", printable(n))
	}
	missing := 0
	for _, it := range planItems(p) {
		if it.Missing != "" {
			missing++
		}
	}
	if missing > 0 {
		fmt.Fprintf(w, "%d of these cannot be had\n", missing)
	}
	speaksFor(w, p.Size)
	return nil
}

func printItems(w io.Writer, items []restore.Item) error {
	t := newTable(w)
	for _, it := range items {
		from := it.Origin
		if it.Missing != "" {
			from = "MISSING: " + it.Missing
		}
		label := it.Role
		if label == "" {
			label = it.Kind
		}
		t.row("  "+label, it.Key.Short(), it.Place, byteCount(it.Bytes), from)
	}
	return t.flush()
}

// byteCount is a size as people read it.
func byteCount(n int64) string {
	switch {
	case n < 0:
		return "-"
	case n < 1<<10:
		return strconv.FormatInt(n, 10) + " B"
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// trusted says whether a step may be run again: somebody whose key is trusted
// for it, or this ledger's own observer, signed it.
func trusted(e schema.Evidence) bool { return e == schema.Attested || e == schema.Observed }
