package graphql

import (
	"context"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// walk resolves Lineage.
type walk struct {
	in        *answer
	depth     int
	a         *lineage.Lineage
	resources map[schema.Key]*resource
	steps     map[int64]*step
}

// walkArgs are the arguments of every walk.
type walkArgs struct {
	Direction schema.Direction
	Depth     *int32
}

func (w walkArgs) options() (lineage.LineageOptions, error) {
	opt := lineage.LineageOptions{Direction: w.Direction}
	if w.Depth != nil {
		if *w.Depth < 1 {
			return opt, badInput("depth", "%d: a walk goes at least one edge far; leave it out for no bound", *w.Depth)
		}
		opt.Depth = int(*w.Depth)
	}
	return opt, nil
}

// walk answers with the lineage of ref. Everything that it mentions is read
// once, however often edges lead to it.
func (a *answer) walk(ctx context.Context, ref lineage.Ref, opt lineage.LineageOptions) (*walk, error) {
	if ref.Start.Key == "" {
		_, err := a.resourceAt(ref)
		return nil, err
	}
	found, err := a.View.Lineage(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	if err := a.spend(ctx, len(found.Edges)+1); err != nil {
		return nil, err
	}
	w := &walk{a, opt.Depth, found, make(map[schema.Key]*resource, len(found.Resources)), make(map[int64]*step, len(found.Steps))}
	for _, r := range found.Resources {
		w.resources[r.Key] = a.newResource(refTo(r.Key), r)
	}
	if root := w.resources[ref.Start.Key]; root != nil {
		root.ref = ref
	}
	for _, s := range found.Steps {
		w.steps[s.Entry] = a.newStep(s)
	}
	return w, nil
}

func (w *walk) Ref() string       { return w.a.Ref.Text }
func (w *walk) Name() *string     { return text(w.a.Ref.Name) }
func (w *walk) Direction() string { return string(w.a.Direction) }
func (w *walk) Truncated() bool   { return w.a.Truncated }
func (w *walk) Bodiless() Long    { return Long(w.a.Bodiless) }
func (w *walk) Size() Long        { return Long(w.a.Size) }
func (w *walk) Root() *resource   { return w.resources[w.a.Ref.Start.Key] }

func (w *walk) Resources() *[]*resource {
	out := make([]*resource, len(w.a.Resources))
	for i, r := range w.a.Resources {
		out[i] = w.resources[r.Key]
	}
	return &out
}

func (w *walk) Steps() *[]*step {
	out := make([]*step, len(w.a.Steps))
	for i, s := range w.a.Steps {
		out[i] = w.steps[s.Entry]
	}
	return &out
}

func (w *walk) Edges() *[]*edge {
	out := make([]*edge, len(w.a.Edges))
	for i := range w.a.Edges {
		e := &w.a.Edges[i]
		out[i] = &edge{
			From: w.resources[e.From], To: w.resources[e.To], Step: w.steps[e.Step],
			Relation: text(e.Relation), Role: text(e.Role), Path: text(e.Path), Evidence: text(string(e.Evidence)),
			Ambiguous: &e.Ambiguous, Depth: number(e.Depth), in: w.in, entry: e.Entry,
		}
	}
	return &out
}

// Proof is the bundle with every entry that the walk rests on, and the trust
// that its grades rest on.
func (w *walk) Proof(ctx context.Context) (*string, error) {
	ref := w.a.Ref
	claim := verify.Claim{
		Ref: ref.Text, Entry: -1, Root: ref.Start.Key, Run: ref.Start.Run, Direction: w.a.Direction,
		Depth: w.depth, Size: w.a.Size, Truncated: w.a.Truncated, Edges: w.a.Edges,
	}
	if ref.Name != "" {
		claim.Name, claim.Entry = ref.Name, ref.Entry
	}
	return w.in.bundle(ctx, claim, w.a.Entries...)
}

// edge resolves Edge. It reads nothing unless its entry is asked for: an answer
// has many edges.
type edge struct {
	From, To  *resource
	Step      *step
	Relation  *string
	Role      *string
	Path      *string
	Evidence  *string
	Ambiguous *bool
	Depth     *int32

	in    *answer
	entry int64
}

func (e *edge) Entry(ctx context.Context) (*entry, error) { return e.in.entry(ctx, e.entry) }
