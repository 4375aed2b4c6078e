package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest/git"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

type diffJSON struct {
	Left        string           `json:"left"`
	Right       string           `json:"right"`
	Same        bool             `json:"same"`
	Size        int64            `json:"size"`
	Metrics     []metricJSON     `json:"metrics"`
	Differences []differenceJSON `json:"differences"`
}

type metricJSON struct {
	Name  string `json:"name"`
	Left  any    `json:"left"`
	Right any    `json:"right"`
}

type differenceJSON struct {
	Kind  string             `json:"kind"`
	Name  string             `json:"name,omitempty"`
	Left  string             `json:"left,omitempty"`
	Right string             `json:"right,omitempty"`
	Depth int                `json:"depth"`
	Cause bool               `json:"cause"`
	Steps []lineage.StepPair `json:"steps"`
	// Changes are the files, layers or labels in which the two sides differ, where
	// that is known; nil where it is not.
	Changes []lineage.Change `json:"changes,omitempty"`
}

func (a *app) diffCmd() *cobra.Command {
	var q asked
	var files bool
	cmd := &cobra.Command{
		Use:   "diff REF REF",
		Short: "Say why two models differ: what went into them, nearest cause first",
		Long: `Say why two models (or other resources) differ. The steps that made them are
paired, what is equal is left out, and what differs is shown: causes first,
then what merely follows from them. With --files, what differs inside of causes
is listed too: files of folders and commits, layers, labels and (from SBOMs that
were recorded) packages of images. Commits
are read from the content store or their repositories.`,
		Example: "  retrace diff forecast@1 forecast@3\n  retrace diff forecast@1 forecast@3 --files",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			b, v, left, err := a.ask(cmd.Context(), q, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			right, err := resolve(cmd.Context(), v, args[1])
			if err != nil {
				return err
			}
			d, err := v.Diff(cmd.Context(), left, right)
			if err != nil {
				return err
			}
			changes := map[int][]lineage.Change{}
			if files {
				if changes, err = b.changes(cmd, v, d); err != nil {
					return err
				}
			}
			if err := a.printDiff(cmd, d, changes); err != nil {
				return err
			}
			if len(d.Differences) > 0 || !d.Same {
				return isFalse(nil)
			}
			return nil
		},
	}
	q.flags(cmd)
	cmd.Flags().BoolVar(&files, "files", false, "list what differs inside of causes")
	return cmd
}

// changes is in what the causes of d differ, by their places in it. A commit that
// cannot be read is said on stderr.
func (b *book) changes(cmd *cobra.Command, v *lineage.View, d *lineage.Diff) (map[int][]lineage.Change, error) {
	out := map[int][]lineage.Change{}
	for i, x := range d.Differences {
		left, leftErr := schema.ParseKey(x.Left)
		right, rightErr := schema.ParseKey(x.Right)
		if !x.Cause || leftErr != nil || rightErr != nil {
			continue
		}
		var err error
		if left.Algorithm() == schema.GitCommit {
			if out[i], err = b.changedFiles(cmd.Context(), v, left, right); err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "retrace: the files in which the commits differ are not known: %v\n", err)
			}
			continue
		}
		if out[i], err = v.Changes(cmd.Context(), b.log.Entry, left, right); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// changedFiles are the files in which two commits differ.
func (b *book) changedFiles(ctx context.Context, v *lineage.View, left, right schema.Key) ([]lineage.Change, error) {
	fetcher := git.NewFetcher(b.env())
	var sides [2]map[string]lineage.Part
	for i, k := range []schema.Key{left, right} {
		r, err := v.Resource(k)
		if err != nil {
			return nil, err
		}
		files, err := fetcher.Files(ctx, r)
		if err != nil {
			return nil, err
		}
		sides[i] = map[string]lineage.Part{}
		for path, f := range files {
			sides[i][path] = lineage.Part{Value: f.Object, Size: f.Size}
		}
	}
	return lineage.Compare(sides[0], sides[1]), nil
}

func (a *app) printDiff(cmd *cobra.Command, d *lineage.Diff, changes map[int][]lineage.Change) error {
	out := diffJSON{Left: refLabel(d.Left), Right: refLabel(d.Right), Same: d.Same, Size: d.Size, Metrics: []metricJSON{}, Differences: []differenceJSON{}}
	names := slices.Sorted(maps.Keys(d.LeftMetrics))
	for _, n := range slices.Sorted(maps.Keys(d.RightMetrics)) {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for _, n := range names {
		if l, r := d.LeftMetrics[n], d.RightMetrics[n]; l != r {
			out.Metrics = append(out.Metrics, metricJSON{n, l, r})
		}
	}
	for i, x := range d.Differences {
		out.Differences = append(out.Differences, differenceJSON{x.Kind, x.Name, x.Left, x.Right, x.Depth, x.Cause, x.Steps, changes[i]})
	}
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), out)
	}
	w := cmd.OutOrStdout()
	if d.Same {
		fmt.Fprintf(w, "%s and %s are the same: equal bytes, made by the same step\n", out.Left, out.Right)
		return nil
	}
	if len(out.Metrics) > 0 {
		t := newTable(w, "METRIC", out.Left, out.Right)
		for _, m := range out.Metrics {
			t.row(m.Name, metric(m.Left), metric(m.Right))
		}
		if err := t.flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	if len(out.Differences) == 0 {
		fmt.Fprintf(w, "nothing recorded differs in what went into %s and %s\n", out.Left, out.Right)
		return nil
	}
	t := newTable(w, "", "WHAT", "NAME", out.Left, out.Right, "STEPS")
	for _, x := range out.Differences {
		label := "follows"
		if x.Cause {
			label = "CAUSE"
		}
		t.row(label, x.Kind, x.Name, shortValue(x.Left), shortValue(x.Right), stepPairs(x.Steps))
		for i, c := range x.Changes {
			if i == maxChanges {
				t.row("", "", fmt.Sprintf("  and %d more; -o json lists all", len(x.Changes)-i))
				break
			}
			t.row("", "", "  "+clipTo(c.Path, 60), changed(c.Left, c.LeftSize), changed(c.Right, c.RightSize))
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	speaksFor(cmd.ErrOrStderr(), d.Size)
	return nil
}

// maxChanges is how many places one cause shows in a table.
const maxChanges = 20

// changed is one side of a change.
func changed(value string, size int64) string {
	switch {
	case value == "":
		return "-"
	case size < 0:
		return shortValue(value)
	}
	return shortValue(value) + " " + byteCount(size)
}

// refLabel is a reference as people read it: the name it was reached by.
func refLabel(r lineage.Ref) string {
	if r.Name != "" {
		return strings.TrimPrefix(r.Name, schema.NameModel+":")
	}
	return r.Text
}

func metric(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case float64:
		return strconv.FormatFloat(v, 'g', 8, 64)
	}
	return fmt.Sprint(v)
}

func shortValue(s string) string {
	if s == "" {
		return "-"
	}
	if k, err := schema.ParseKey(s); err == nil {
		return k.Short()
	}
	return clipTo(s, 50)
}

func stepPairs(pairs []lineage.StepPair) string {
	var out []string
	for _, p := range pairs {
		out = append(out, fmt.Sprintf("#%d/#%d", p.Left, p.Right))
	}
	return strings.Join(out, " ")
}
