package graphql

import (
	"context"
	"fmt"
	"slices"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// maxList is how many items a list without pages holds.
const maxList = 10000

func listLimit(what string, n int) error {
	return &Error{Code: CodeLimit, Field: what, Message: fmt.Sprintf("%d items are more than the limit of %d; ask for the lineage instead", n, maxList)}
}

// resource resolves Resource: what ref leads to. What most answers ask for
// stands in fields, made once: an answer names one resource at many edges, and the
// library reads a field in a fraction of the time of a call.
type resource struct {
	ID     ID
	Kind   *string
	Name   *string
	URI    *string
	Digest *Digest
	State  string

	in  *answer
	ref lineage.Ref
	r   schema.Resource
}

func (a *answer) newResource(ref lineage.Ref, r schema.Resource) *resource {
	out := &resource{
		ID: opaque("resource", string(r.Key)), Kind: text(r.Kind), Name: text(r.Name), URI: text(r.URI),
		State: string(a.View.State(r.Key)), in: a, ref: ref, r: r,
	}
	if r.Key.Digested() {
		d := Digest(r.Key)
		out.Digest = &d
	}
	return out
}

// resource is what the key identifies; nil for no key.
func (a *answer) resource(k schema.Key) (*resource, error) {
	if k == "" {
		return nil, nil
	}
	return a.resourceAt(refTo(k))
}

// refTo is a reference to a resource that was reached by its key.
func refTo(k schema.Key) lineage.Ref {
	return lineage.Ref{Text: string(k), Start: schema.Start{Key: k}, Entry: -1}
}

func (a *answer) resourceAt(ref lineage.Ref) (*resource, error) {
	if ref.Start.Key == "" {
		return nil, &Error{Code: CodeNotFound, Message: fmt.Sprintf("%s states no step; ask for it as an entry", ref.Text)}
	}
	r, err := a.View.Resource(ref.Start.Key)
	if err != nil {
		return nil, err
	}
	return a.newResource(ref, r), nil
}

func (r *resource) MediaType() *string { return text(r.r.MediaType) }
func (r *resource) Size() *Long        { return long(r.r.Size) }
func (r *resource) Content() *string   { return text(r.r.Content) }

func (r *resource) Digests() *[]Digest {
	out := []Digest{}
	for _, k := range r.r.Digests.Keys() {
		out = append(out, Digest(k))
	}
	return &out
}

func (r *resource) Names(ctx context.Context) (*[]*name, error) {
	pointed, err := r.in.NamesOf(r.r.Key)
	if err != nil {
		return nil, err
	}
	if at := r.in.View.Time(); !at.IsZero() {
		pointed = slices.DeleteFunc(pointed, func(p lineage.Pointed) bool { return p.At.After(at) })
	}
	if len(pointed) > maxList {
		return nil, listLimit("names", len(pointed))
	}
	return list(r.in.names(pointed)), r.in.spend(ctx, len(pointed))
}

func (r *resource) ProducedBy(ctx context.Context) (*[]*step, error) {
	made, err := r.in.Producers(ctx, r.ref.Start)
	return r.in.steps(ctx, "producedBy", made, err)
}

func (r *resource) UsedBy(ctx context.Context) (*[]*step, error) {
	used, err := r.in.Users(ctx, r.r.Key)
	return r.in.steps(ctx, "usedBy", used, err)
}

func (a *answer) steps(ctx context.Context, what string, steps []lineage.StepInfo, err error) (*[]*step, error) {
	if err != nil {
		return nil, err
	}
	if len(steps) > maxList {
		return nil, listLimit(what, len(steps))
	}
	out := make([]*step, len(steps))
	for i, s := range steps {
		out[i] = a.newStep(s)
	}
	return &out, a.spend(ctx, len(steps))
}

func (r *resource) Inputs(ctx context.Context, args struct{ Kind *string }) (*[]*resource, error) {
	walked, err := r.in.walk(ctx, r.ref, lineage.LineageOptions{})
	if err != nil {
		return nil, err
	}
	out := []*resource{}
	for _, known := range walked.a.Resources {
		if known.Key != r.r.Key && (args.Kind == nil || known.Kind == *args.Kind) {
			out = append(out, walked.resources[known.Key])
		}
	}
	return &out, nil
}

func (r *resource) Lineage(ctx context.Context, args walkArgs) (*walk, error) {
	opt, err := args.options()
	if err != nil {
		return nil, err
	}
	return r.in.walk(ctx, r.ref, opt)
}

func (r *resource) Gaps(ctx context.Context) (*[]*gap, error) { return r.in.gaps(ctx, r.ref) }

func (r *resource) Proof(ctx context.Context) (*string, error) {
	walked, err := r.in.walk(ctx, r.ref, lineage.LineageOptions{})
	if err != nil {
		return nil, err
	}
	return walked.Proof(ctx)
}

// gap resolves Gap.
type gap struct {
	in *answer
	g  lineage.Gap
}

func (a *answer) gaps(ctx context.Context, ref lineage.Ref) (*[]*gap, error) {
	found, err := a.View.Gaps(ctx, ref, a.opt.Held)
	if err != nil {
		return nil, err
	}
	out := make([]*gap, len(found))
	for i, g := range found {
		out[i] = &gap{a, g}
	}
	return &out, a.spend(ctx, len(found))
}

func (g *gap) Rule() *string                { return text(g.g.ID) }
func (g *gap) Severity() *string            { return text(string(g.g.Severity)) }
func (g *gap) Explain() *string             { return text(g.g.Explain) }
func (g *gap) Remedy() *string              { return text(g.g.Remedy) }
func (g *gap) Name() *string                { return text(g.g.Name) }
func (g *gap) Detail() *string              { return text(g.g.Detail) }
func (g *gap) Resource() (*resource, error) { return g.in.resource(g.g.Key) }

func (g *gap) Entry(ctx context.Context) (*entry, error) {
	if g.g.Entry < 0 {
		return nil, nil
	}
	return g.in.entry(ctx, g.g.Entry)
}

func (r *resource) Attestations(ctx context.Context) (*[]*entry, error) {
	said, err := r.in.View.Attestations(r.r.Key)
	if err != nil {
		return nil, err
	}
	out := make([]*entry, len(said))
	for i, e := range said {
		out[i] = r.in.entryOf(ctx, e)
	}
	return &out, r.in.spend(ctx, len(out))
}
