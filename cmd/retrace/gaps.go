package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

type gapJSON struct {
	Rule     string           `json:"rule"`
	Severity lineage.Severity `json:"severity"`
	Key      schema.Key       `json:"key,omitempty"`
	Name     string           `json:"name,omitempty"`
	Entry    int64            `json:"entry"`
	Detail   string           `json:"detail,omitempty"`
	Explain  string           `json:"explain"`
	Remedy   string           `json:"remedy"`
}

func (a *app) gapsCmd() *cobra.Command {
	var q asked
	var least int
	var live bool
	cmd := &cobra.Command{
		Use:   "gaps REF",
		Short: "Say what stands in the way of restoring and reproducing a resource",
		Long: `Say what stands in the way of restoring and reproducing a resource. Each rule,
and how the score of 0 to 100 is made, is explained in docs/gaps.md. With
--fail-under, exit status 1 if the score is lower.

What was kept elsewhere, in a registry or an object store, is taken to be there still;
with --live, they are asked.`,
		Example: "  retrace gaps forecast@3\n  retrace gaps forecast --live --fail-under 80",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			b, v, ref, err := a.ask(cmd.Context(), q, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			held := b.held
			if live {
				held = b.heldNow
			}
			gaps, err := v.Gaps(cmd.Context(), ref, held)
			if err != nil {
				return err
			}
			if err := a.printGaps(cmd, v.Size(), ref, gaps); err != nil {
				return err
			}
			if score := lineage.Score(gaps); score < least {
				return isFalse(fmt.Errorf("the score of %s is %d, under %d", refLabel(ref), score, least))
			}
			return nil
		},
	}
	q.flags(cmd)
	cmd.Flags().BoolVar(&live, "live", false, "ask registries and object stores whether what they held is there still")
	cmd.Flags().IntVar(&least, "fail-under", 0, "exit with 1 if the score is under `N`, of 100")
	return cmd
}

func (a *app) printGaps(cmd *cobra.Command, size int64, ref lineage.Ref, gaps []lineage.Gap) error {
	out := []gapJSON{}
	for _, g := range gaps {
		out = append(out, gapJSON{g.ID, g.Severity, g.Key, g.Name, g.Entry, g.Detail, g.Explain, g.Remedy})
	}
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), struct {
			Ref   string    `json:"ref"`
			Size  int64     `json:"size"`
			Score int       `json:"score"`
			Gaps  []gapJSON `json:"gaps"`
		}{refLabel(ref), size, lineage.Score(gaps), out})
	}
	w := cmd.OutOrStdout()
	if len(gaps) == 0 {
		fmt.Fprintf(w, "no gaps: nothing recorded stands in the way of restoring and reproducing %s\n", refLabel(ref))
		speaksFor(cmd.ErrOrStderr(), size)
		return nil
	}
	for _, severity := range []lineage.Severity{lineage.Blocks, lineage.Risks, lineage.Weakens} {
		for _, id := range gapRules(gaps, severity) {
			if err := printRule(w, gaps, id); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(w, "%s of %s: score %d of 100\n", count(len(gaps), "gap", "gaps"), refLabel(ref), lineage.Score(gaps))
	speaksFor(cmd.ErrOrStderr(), size)
	return nil
}

// gapRules are the rules of one severity that gaps were found of, in the order
// of the gaps.
func gapRules(gaps []lineage.Gap, s lineage.Severity) []string {
	var ids []string
	for _, g := range gaps {
		if g.Severity == s && !slices.Contains(ids, g.ID) {
			ids = append(ids, g.ID)
		}
	}
	return ids
}

// printRule prints one rule, what breaks it, and what to do about it.
func printRule(w io.Writer, gaps []lineage.Gap, id string) error {
	first := gaps[slices.IndexFunc(gaps, func(g lineage.Gap) bool { return g.ID == id })]
	fmt.Fprintf(w, "%s  %s: %s\n", first.Severity, id, first.Explain)
	t := newTable(w)
	for _, g := range gaps {
		if g.ID != id {
			continue
		}
		about := shortCommand(g.Name)
		if about == "" {
			about = g.Key.Short()
		}
		entry := ""
		if g.Entry >= 0 {
			entry = "#" + strconv.FormatInt(g.Entry, 10)
		}
		t.row("  "+entry, clipTo(about, 60), clipTo(g.Detail, 80))
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "  remedy: %s\n\n", first.Remedy)
	return err
}
