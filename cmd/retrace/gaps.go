package main

import (
	"fmt"
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
	cmd := &cobra.Command{
		Use:     "gaps REF",
		Short:   "Say what stands in the way of restoring and reproducing a resource",
		Long:    "Say what stands in the way of restoring and reproducing a resource. Each rule is\nexplained in docs/gaps.md.",
		Example: "  retrace gaps forecast@3",
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
			gaps, err := v.Gaps(cmd.Context(), ref, b.held)
			if err != nil {
				return err
			}
			return a.printGaps(cmd, v.Size(), ref, gaps)
		},
	}
	q.flags(cmd)
	return cmd
}

func (a *app) printGaps(cmd *cobra.Command, size int64, ref lineage.Ref, gaps []lineage.Gap) error {
	out := []gapJSON{}
	for _, g := range gaps {
		out = append(out, gapJSON{g.ID, g.Severity, g.Key, g.Name, g.Entry, g.Detail, g.Explain, g.Remedy})
	}
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), struct {
			Ref  string    `json:"ref"`
			Size int64     `json:"size"`
			Gaps []gapJSON `json:"gaps"`
		}{refLabel(ref), size, out})
	}
	if len(gaps) == 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "no gaps: nothing recorded stands in the way of restoring and reproducing %s\n", refLabel(ref))
		return nil
	}
	t := newTable(cmd.OutOrStdout(), "SEVERITY", "RULE", "ABOUT", "DETAIL", "ENTRY")
	for _, g := range gaps {
		about := g.Name
		if about == "" {
			about = g.Key.Short()
		}
		t.row(string(g.Severity), g.ID, clipTo(about, 48), clipTo(g.Detail, 48), strconv.FormatInt(g.Entry, 10))
	}
	if err := t.flush(); err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	seen := map[string]bool{}
	for _, g := range gaps {
		if !seen[g.ID] {
			seen[g.ID] = true
			fmt.Fprintf(w, "\n%s: %s.\n  remedy: %s\n", g.ID, g.Explain, g.Remedy)
		}
	}
	return nil
}
