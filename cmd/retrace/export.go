package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/export"
	"github.com/retrace-ledger/retrace/lineage"
)

func (a *app) exportCmd() *cobra.Command {
	var q asked
	cmd := &cobra.Command{
		Use:   "export REF",
		Short: "Write the lineage of a resource in the words of other tools",
		Long: `Write what a resource was made from for other tools: with -o prov as W3C
PROV-JSON, with -o slsa the provenance of each step as it was recorded (JSON
Lines of envelopes, with their signatures), with -o cyclonedx as a bill of
materials for machine learning (CycloneDX 1.6).`,
		Example: `  retrace export forecast@3 -o cyclonedx >forecast.cdx.json
  retrace export forecast@3 -o prov >forecast.prov.json
  retrace export forecast@3 -o slsa >forecast.intoto.jsonl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkExport(); err != nil {
				return err
			}
			b, v, ref, err := a.ask(cmd.Context(), q, args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			l, err := v.Lineage(cmd.Context(), ref, lineage.LineageOptions{})
			if err != nil {
				return err
			}
			if len(l.Resources) == 0 {
				return cannot(fmt.Errorf("%s is not a resource", refLabel(ref)))
			}
			sayHoles(cmd.ErrOrStderr(), l)
			origin, _, _ := strings.Cut(string(b.log.Checkpoint()), "\n")
			answer := &export.Answer{Origin: origin, Lineage: l}
			if answer.Metrics, err = v.Metrics(cmd.Context(), ref.Start); err != nil {
				return err
			}
			switch w := cmd.OutOrStdout(); a.output {
			case "prov":
				return export.PROV(w, answer)
			case "cyclonedx":
				return export.CycloneDX(w, answer)
			default:
				left, err := export.SLSA(cmd.Context(), w, answer, b.log.Entry)
				if err == nil && left > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "retrace: %s left out: erased, or withheld\n", count(left, "step is", "steps are"))
				}
				return err
			}
		},
	}
	q.flags(cmd)
	return cmd
}

// checkExport refuses formats that export does not write.
func (a *app) checkExport() error {
	switch a.output {
	case "prov", "slsa", "cyclonedx":
		return nil
	}
	return cannot(fmt.Errorf("-o %s: export writes prov, slsa or cyclonedx", a.output))
}
