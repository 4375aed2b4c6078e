package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

type modelJSON struct {
	Name       string          `json:"name"`
	Version    string          `json:"version"`
	Key        schema.Key      `json:"key"`
	Run        string          `json:"run,omitempty"`
	RecordedAt time.Time       `json:"recordedAt"`
	Entry      int64           `json:"entry"`
	Evidence   schema.Evidence `json:"evidence"`
	Retracted  *retractedJSON  `json:"retracted,omitempty"` // the naming was withdrawn
}

func (a *app) modelsCmd() *cobra.Command {
	var period span
	cmd := &cobra.Command{
		Use:     "models [NAME]",
		Short:   "List the versions of models",
		Example: "  retrace models\n  retrace models forecast --since 2026-11-01",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			var filter lineage.Filter
			if err := period.filter(&filter); err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			b, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer b.Close()
			v, err := b.view(0, "")
			if err != nil {
				return err
			}
			models := []modelJSON{}
			for m, err := range v.Models(cmd.Context(), 0, name, filter) {
				if err != nil {
					return err
				}
				one := modelJSON{m.Name, m.Version, m.Key, m.Run, m.RecordedAt, m.Entry, m.Evidence, nil}
				if r, gone, err := v.Retraction(m.Entry); err != nil {
					return err
				} else if gone {
					one.Retracted = &retractedJSON{r.By, r.Reason}
				}
				models = append(models, one)
			}
			return a.printModels(cmd, v.Size(), models)
		},
	}
	period.flags(cmd)
	return cmd
}

func (a *app) printModels(cmd *cobra.Command, size int64, models []modelJSON) error {
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), struct {
			Size   int64       `json:"size"`
			Count  int         `json:"count"`
			Models []modelJSON `json:"models"`
		}{size, len(models), models})
	}
	t := newTable(cmd.OutOrStdout(), "MODEL", "RECORDED", "DIGEST", "RUN", "ENTRY", "EVIDENCE")
	for _, m := range models {
		evidence := string(m.Evidence)
		if m.Retracted != nil {
			evidence += fmt.Sprintf(", withdrawn by entry %d", m.Retracted.By)
		}
		t.row(m.Name+"@"+m.Version, when(m.RecordedAt), m.Key.Short(), m.Run, strconv.FormatInt(m.Entry, 10), evidence)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s in %s\n", count(len(models), "model version", "model versions"), count(size, "entry", "entries"))
	return nil
}
