package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

func (a *app) showCmd() *cobra.Command {
	var q asked
	cmd := &cobra.Command{
		Use:     "show REF",
		Short:   "Show all that is recorded of one resource, step or entry",
		Example: "  retrace show forecast@3\n  retrace show entry:12\n  retrace show ./model.bin",
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
			if strings.HasPrefix(args[0], "#") || strings.HasPrefix(args[0], "entry:") {
				return a.showEntry(cmd.Context(), cmd.OutOrStdout(), b, v, ref.Entry)
			}
			return a.showResource(cmd.Context(), cmd.OutOrStdout(), v, ref)
		},
	}
	q.flags(cmd)
	return cmd
}

func (a *app) showEntry(ctx context.Context, w io.Writer, b *book, v *lineage.View, index int64) error {
	info, err := v.Entry(index)
	if err != nil {
		return err
	}
	e, err := b.log.Entry(ctx, index)
	if err != nil {
		return err
	}
	out := toEntryJSON(info)
	out.Commitment = fmt.Sprintf("%x", e.Commitment)
	if r, gone, err := v.Retraction(index); err != nil {
		return err
	} else if gone {
		out.Retracted = &retractedJSON{r.By, r.Reason}
	}
	if subject, issuer := verify.Certified(e.Envelope); subject != "" {
		out.Certificate = &certificateJSON{subject, issuer}
	}
	if e.State == schema.Present {
		if out.Statement, err = e.Envelope.Statement(); err != nil {
			return err
		}
	}
	if a.output == "json" {
		return printJSON(w, out)
	}
	t := newTable(w)
	t.row("entry", strconv.FormatInt(index, 10))
	if e.State == schema.Present {
		t.row("type", out.PredicateType)
		t.row("recorded", out.RecordedAt.Format(rfc3339))
		t.row("namespace", out.Namespace)
		t.field("source", out.Source)
		t.row("evidence", string(out.Evidence))
		t.row("signed by", strings.Join(out.Signers, ", "))
		if out.Certificate != nil {
			t.row("certificate of", out.Certificate.String())
		}
	}
	t.row("commitment", out.Commitment)
	if r, gone, err := v.Retraction(index); err != nil {
		return err
	} else if gone {
		t.row("withdrawn", fmt.Sprintf("by entry %d: %s", r.By, r.Reason))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if e.State != schema.Present {
		fmt.Fprintf(w, "the body is %s\n", printable(goneBecause(v, index, e.State)))
		return nil
	}
	return printJSON(w, out.Statement)
}

type showJSON struct {
	resourceJSON
	RefName    string          `json:"refName,omitempty"`
	Size       int64           `json:"speaksFor"`
	Names      []nameJSON      `json:"names"`
	ProducedBy []stepJSON      `json:"producedBy"`
	UsedBy     []stepJSON      `json:"usedBy"`
	Relations  []schema.Edge   `json:"relations"`
	Content    string          `json:"content,omitempty"`
	Durability string          `json:"durability,omitempty"`
	Evidence   schema.Evidence `json:"evidence,omitempty"`
}

func (a *app) showResource(ctx context.Context, w io.Writer, v *lineage.View, ref lineage.Ref) error {
	r, err := v.Resource(ref.Start.Key)
	if err != nil {
		return err
	}
	names, err := v.NamesOf(r.Key)
	if err != nil {
		return err
	}
	made, err := v.Producers(ctx, ref.Start)
	if err != nil {
		return err
	}
	used, err := v.Users(ctx, r.Key)
	if err != nil {
		return err
	}
	up, down, err := v.Relations(ctx, r.Key)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return printJSON(w, showToJSON(v, ref, r, names, made, used, append(up, down...)))
	}
	t := newTable(w)
	t.row("resource", string(r.Key))
	t.row("kind", r.Kind)
	for _, h := range v.Holes(r.Key) {
		t.row("state", "erased: "+holeText(h))
	}
	t.field("name", r.Name)
	t.field("uri", r.URI)
	for _, alg := range slices.Sorted(maps.Keys(r.Digests)) {
		t.row(alg, r.Digests[alg])
	}
	if r.Size >= 0 {
		t.row("size", strconv.FormatInt(r.Size, 10)+" bytes")
	}
	t.field("kept on", durabilityText(r.Durability))
	for _, n := range names {
		t.row("named", fmt.Sprintf("%s since %s (entry %d)", n.NameFact.Name, when(n.At), n.Entry))
	}
	if err := showWords(t, v, ref); err != nil {
		return err
	}
	for _, s := range made {
		showStep(t, "made by", s)
	}
	for _, s := range used {
		t.row("used by", fmt.Sprintf("step %d  %s", s.Entry, clipTo(stepTitle(s.Step), 70)))
	}
	for _, rel := range up {
		if rel.Kind == schema.RelLayersOn {
			continue // `retrace lineage` says which images that is
		}
		t.row(rel.Kind, fmt.Sprintf("%s (entry %d)", rel.To.Short(), rel.Entry))
	}
	for _, rel := range down {
		if rel.Kind == schema.RelHolds || rel.Kind == schema.RelLocated || rel.Kind == schema.RelLayersOf {
			continue // each of the first two is the other, seen from there
		}
		t.row(rel.Kind+" of", fmt.Sprintf("%s (entry %d)", rel.From.Short(), rel.Entry))
	}
	if err := t.flush(); err != nil {
		return err
	}
	speaksFor(w, v.Size())
	return nil
}

// durabilityText says where the bytes of a snapshot are kept, seen from what it
// was taken of.
func durabilityText(class string) string {
	return map[string]string{
		schema.SameDisk:  "the same disk as what it was taken of (" + class + ")",
		schema.OtherDisk: "another disk (" + class + ")",
		schema.Remote:    "another machine (" + class + ")",
	}[class]
}

// showWords shows what people say of what ref stands for, and whether the entry
// that names it was withdrawn.
func showWords(t *table, v *lineage.View, ref lineage.Ref) error {
	said, err := v.Attestations(ref.Start.Key)
	if err != nil {
		return err
	}
	for _, e := range said {
		r, gone, err := v.Retraction(e.Index)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%s (entry %d, %s, %s)", e.Summary, e.Index, e.Evidence, when(e.RecordedAt))
		if gone {
			text += fmt.Sprintf(", withdrawn by entry %d: %s", r.By, r.Reason)
		}
		t.row("vouched for", text)
	}
	if ref.Entry < 0 {
		return nil
	}
	r, gone, err := v.Retraction(ref.Entry)
	if gone {
		t.row("withdrawn", fmt.Sprintf("entry %d by entry %d: %s", r.Entry, r.By, r.Reason))
	}
	return err
}

func showStep(t *table, label string, s lineage.StepInfo) {
	t.row(label, fmt.Sprintf("step %d  %s", s.Entry, clipTo(stepTitle(s.Step), 70)))
	t.field("  run", s.Step.Run)
	t.row("  by", s.Step.Builder+" ("+string(s.Evidence)+")")
	if s.Step.Exit != nil {
		t.row("  exit", strconv.Itoa(*s.Step.Exit))
	}
	if !s.Step.Started.IsZero() {
		t.row("  started", when(s.Step.Started))
		t.row("  took", s.Step.Finished.Sub(s.Step.Started).String())
	}
	for _, p := range slices.Sorted(maps.Keys(s.Step.Parameters)) {
		t.row("  parameter", p+" = "+clipTo(s.Step.Parameters[p], 70))
	}
	for _, m := range slices.Sorted(maps.Keys(s.Step.Metrics)) {
		t.row("  metric", fmt.Sprintf("%s = %v", m, s.Step.Metrics[m]))
	}
	for _, u := range s.Step.Uses {
		t.row("  "+u.Role, strings.TrimSpace(u.Key.Short()+"  "+useLabel(u)))
	}
}

// stepTitle is what a step did: its command with the program's base name, or
// what its statement calls it.
func stepTitle(s *schema.Step) string {
	if len(s.Argv) == 0 {
		return s.Name
	}
	return shortCommand(shellLine(s.Argv))
}

func useLabel(u schema.Use) string {
	if u.Path != "" {
		return u.Path
	}
	return u.Name
}

func showToJSON(v *lineage.View, ref lineage.Ref, r schema.Resource, names []lineage.Pointed, made, used []lineage.StepInfo, related []schema.EntryRelation) showJSON {
	out := showJSON{
		resourceJSON: toResourceJSON(r, v.Holes(r.Key)), RefName: ref.Name, Size: v.Size(), Content: r.Content, Durability: r.Durability,
		Names: []nameJSON{}, ProducedBy: []stepJSON{}, UsedBy: []stepJSON{}, Relations: []schema.Edge{},
	}
	for _, n := range names {
		out.Names = append(out.Names, nameJSON{n.NameFact.Name, string(n.Key), n.At.Format(rfc3339), n.Entry, n.Old, n.Forced, n.Deleted, n.Evidence})
	}
	for _, s := range made {
		out.ProducedBy = append(out.ProducedBy, toStepJSON(s))
	}
	for _, s := range used {
		out.UsedBy = append(out.UsedBy, toStepJSON(s))
	}
	for _, rel := range related {
		out.Relations = append(out.Relations, schema.Edge{From: rel.From, To: rel.To, Step: -1, Relation: rel.Kind, Entry: rel.Entry})
	}
	return out
}
