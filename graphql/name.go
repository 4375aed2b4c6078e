package graphql

import (
	"context"
	"strings"

	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// name resolves Name.
type name struct {
	in *answer
	p  lineage.Pointed
}

func (a *answer) names(pointed []lineage.Pointed) []*name {
	out := make([]*name, len(pointed))
	for i, p := range pointed {
		out[i] = &name{a, p}
	}
	return out
}

func (n *name) Name() *string     { return text(n.p.NameFact.Name) }
func (n *name) At() *graphql.Time { return instant(n.p.At) }
func (n *name) Old() *string      { return text(n.p.Old) }
func (n *name) Forced() *bool     { return &n.p.Forced }
func (n *name) Deleted() *bool    { return &n.p.Deleted }

func (n *name) Resource() (*resource, error) {
	if n.p.Deleted { // the entry says where it pointed, not that it does
		return n.in.resource(n.p.Key)
	}
	return n.in.resourceAt(lineage.Ref{Text: n.p.NameFact.Name, Start: schema.Start{Key: n.p.Key, Run: n.p.Run}, Name: n.p.NameFact.Name, Entry: n.p.Entry})
}

func (n *name) Entry(ctx context.Context) (*entry, error) { return n.in.entry(ctx, n.p.Entry) }

func (n *name) History(ctx context.Context) (*[]*name, error) {
	pointed, err := n.in.View.History(n.p.NameFact.Name)
	if err != nil {
		return nil, err
	}
	if len(pointed) > maxList {
		return nil, listLimit("history", len(pointed))
	}
	return list(n.in.names(pointed)), n.in.spend(ctx, len(pointed))
}

// workload resolves Workload.
type workload struct {
	in   *answer
	full string // CLUSTER/NAMESPACE/KIND/NAME
	p    lineage.Pointed
}

func (w *workload) ID() ID             { return opaque("workload", w.full) }
func (w *workload) Name() *string      { return text(w.full) }
func (w *workload) Cluster() *string   { return w.part(0) }
func (w *workload) Namespace() *string { return w.part(1) }
func (w *workload) Kind() *string      { return w.part(2) }
func (w *workload) At() *graphql.Time  { return instant(w.p.At) }

func (w *workload) part(i int) *string {
	parts := strings.Split(w.full, "/")
	if i >= len(parts) {
		return nil
	}
	return text(parts[i])
}

// Image is the first that the workload ran.
func (w *workload) Image() (*resource, error) {
	if image, err := w.beside("#image"); image != nil || err != nil {
		return image, err
	}
	r, err := (&name{w.in, w.p}).Resource() // others name images alone
	if err != nil || r == nil || r.r.Kind == "workload" {
		return nil, err
	}
	return r, nil
}

func (w *workload) Entry(ctx context.Context) (*entry, error) { return w.in.entry(ctx, w.p.Entry) }

// Model is what the statement about the workload says it served.
func (w *workload) Model() (*resource, error) { return w.beside("#model") }

// beside is what the same statement says under the workload's name and a suffix;
// nil if nothing.
func (w *workload) beside(suffix string) (*resource, error) {
	history, err := w.in.View.History(w.p.NameFact.Name + suffix)
	if err != nil {
		return nil, err
	}
	for _, p := range history {
		if p.Entry == w.p.Entry {
			return (&name{w.in, p}).Resource()
		}
	}
	return nil, nil
}
