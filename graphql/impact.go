package graphql

import (
	"context"
	"strings"

	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// reached resolves Reached.
type reached struct {
	in *answer
	r  lineage.Reached
}

func (r *reached) Name() *string                { return text(r.r.Name) }
func (r *reached) Since() *graphql.Time         { return instant(r.r.From) }
func (r *reached) Until() *graphql.Time         { return instant(r.r.Until) }
func (r *reached) Running() bool                { return r.r.Running }
func (r *reached) Claimed() bool                { return r.r.Claimed }
func (r *reached) Depth() *int32                { return number(r.r.Depth) }
func (r *reached) Resource() (*resource, error) { return r.in.resource(r.r.Key) }

func (r *reached) Entry(ctx context.Context) (*entry, error) { return r.in.entry(ctx, r.r.Entry) }

// Workload is null for a version of a model.
func (r *reached) Workload() (*workload, error) {
	full, ok := strings.CutPrefix(r.r.Name, schema.NameWorkload+":")
	if !ok {
		return nil, nil
	}
	p, err := r.in.naming(r.r.Name, r.r.Entry)
	return &workload{r.in, full, p}, err
}

// Model is null for a workload.
func (r *reached) Model() (*model, error) {
	if !strings.HasPrefix(r.r.Name, schema.NameModel+":") {
		return nil, nil
	}
	p, err := r.in.naming(r.r.Name, r.r.Entry)
	if err != nil {
		return nil, err
	}
	return r.in.modelAt(lineage.Ref{Text: r.r.Name, Start: schema.Start{Key: p.Key, Run: p.Run}, Name: r.r.Name, Entry: p.Entry})
}

// naming is what an entry says of a name.
func (a *answer) naming(name string, entry int64) (lineage.Pointed, error) {
	history, err := a.View.History(name)
	if err != nil {
		return lineage.Pointed{}, err
	}
	for _, p := range history {
		if p.Entry == entry {
			return p, nil
		}
	}
	return lineage.Pointed{}, lineage.ErrNotFound
}

// gapReport resolves GapReport.
type gapReport struct {
	in  *answer
	ref lineage.Ref
	g   []lineage.Gap
}

func (g *gapReport) Ref() string                  { return g.ref.Text }
func (g *gapReport) Resource() (*resource, error) { return g.in.resourceAt(g.ref) }
func (g *gapReport) Score() int32                 { return int32(lineage.Score(g.g)) }
func (g *gapReport) Size() Long                   { return Long(g.in.View.Size()) }

func (g *gapReport) Gaps() []*gap {
	out := make([]*gap, len(g.g))
	for i, x := range g.g {
		out[i] = &gap{g.in, x}
	}
	return out
}
