package main

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/verify/replay"
)

// printAudit shows what an audit of a ledger came to and ends the command
// with its status.
func (a *app) printAudit(cmd *cobra.Command, o *ledgerAudit, got outcome) error {
	verdict := "PASSED"
	if !got.report.OK() {
		verdict = "FAILED"
	}
	err := a.printReport(cmd, o, got, verdict)
	if err != nil {
		return err
	}
	if verdict == "FAILED" {
		return isFalse(fmt.Errorf("%s does not hold: %s, the first: %s", o.ledger, count(got.report.Faults, "finding", "findings"), printable(got.report.Findings[0].String())))
	}
	return nil
}

func (a *app) printReport(cmd *cobra.Command, o *ledgerAudit, got outcome, verdict string) error {
	w, r := cmd.OutOrStdout(), got.report
	notProven := notProven(got)
	if a.output == "json" {
		out := map[string]any{
			"ledger": o.ledger, "verdict": verdict, "checkpoint": string(got.checkpoint.Note), "report": r, "notProven": notProven,
		}
		if got.signer != "" {
			out["statement"], out["signer"] = o.out, got.signer
		}
		return printJSON(w, out)
	}
	fmt.Fprintf(w, "%s: %s, %s\n", verdict, printable(r.Origin), count(got.checkpoint.Size, "entry", "entries"))
	t := newTable(w)
	t.row("  root", base64.StdEncoding.EncodeToString(got.checkpoint.Root[:]))
	t.row("  replayed", replayed(r))
	t.row("  bodies", fmt.Sprintf("%d present, %d erased, %d withheld%s", r.Present, r.Erased, r.Withheld, ranges(r)))
	t.row("  evidence", fmt.Sprintf("%d attested, %d observed, %d claimed", r.Attested, r.Observed, r.Claimed))
	t.row("  signatures", fmt.Sprintf("%d verified, %d by keys that nobody made known", r.Signatures, r.UnknownSignatures))
	t.row("  trust", count(r.TrustEntries, "entry", "entries"))
	t.row("  links", fmt.Sprintf("%d hold, %d begin, %d open", r.Links, r.Beginnings, r.OpenLinks))
	if r.Unreadable > 0 {
		t.row("  unreadable", fmt.Sprintf("%s, the first %d: %s", count(r.Unreadable, "statement", "statements"), r.UnreadableList[0].Entry, r.UnreadableList[0].Problem))
	}
	if r.Witnessed > 0 {
		t.row("  witnessed", fmt.Sprintf("up to size %d", r.Witnessed))
	}
	if r.Lineage != "" {
		t.row("  lineage", "sha256:"+r.Lineage)
	}
	if got.signer != "" {
		t.row("  statement", o.out+", signed by "+got.signer)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if r.Faults > 0 {
		fmt.Fprintln(w, "findings")
		for _, f := range r.Findings {
			fmt.Fprintf(w, "  ! %s\n", printable(f.String()))
		}
		if more := r.Faults - int64(len(r.Findings)); more > 0 {
			fmt.Fprintf(w, "  and %d more\n", more)
		}
	}
	fmt.Fprintln(w, "not proven")
	for _, p := range notProven {
		fmt.Fprintf(w, "  - %s\n", printable(p))
	}
	return nil
}

func replayed(r replay.Report) string {
	if r.ResumedAt > 0 {
		return fmt.Sprintf("%d now, %d by earlier audits of yours", r.Size-r.ResumedAt, r.ResumedAt)
	}
	return fmt.Sprintf("all %d", r.Size)
}

// ranges lists the entries of which bodies are withheld.
func ranges(r replay.Report) string {
	if len(r.WithheldRanges) == 0 {
		return ""
	}
	var parts []string
	for _, x := range r.WithheldRanges {
		if x.To == x.From+1 {
			parts = append(parts, fmt.Sprint(x.From))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", x.From, x.To-1))
		}
	}
	if r.MoreRanges > 0 {
		parts = append(parts, "…")
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// notProven says what a passed audit leaves open (DESIGN invariant 12).
func notProven(got outcome) []string {
	r := got.report
	out := []string{"that what a statement says is true: who signed it answers for that", "that whatever happened was recorded"}
	if r.Witnessed == 0 {
		out = append(out, "that others are shown the same log: no witnesses were asked for (--policy)")
	} else if r.Witnessed < got.checkpoint.Size {
		out = append(out, fmt.Sprintf("that others are shown the same entries from %d on: no quorum has seen them", r.Witnessed))
	}
	if r.Withheld > 0 {
		out = append(out, fmt.Sprintf("anything about %s, whose bodies were withheld from this audit", count(r.Withheld, "entry", "entries")))
	}
	if r.Erased > 0 {
		out = append(out, fmt.Sprintf("what %s said before it was erased", count(r.Erased, "entry", "entries")))
	}
	if r.UnknownSignatures > 0 {
		out = append(out, fmt.Sprintf("%s by keys that no entry before names", count(r.UnknownSignatures, "signature", "signatures")))
	}
	if got.notCompared != "" {
		out = append(out, "that answers come from the index derived here: "+got.notCompared)
	}
	if got.partial != nil {
		out = append(out, fmt.Sprintf("anything from entry %d on, which could not be read: %v", r.Size, got.partial))
	}
	return out
}
