package graphql

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// node resolves Node: whatever an id stands for.
type node struct {
	value interface{ nodeID() ID }
}

func (n *node) ID() ID { return n.value.nodeID() }

func (e *entry) nodeID() ID       { return e.ID() }
func (r *resource) nodeID() ID    { return r.ID }
func (m *model) nodeID() ID       { return m.ID() }
func (s *step) nodeID() ID        { return s.ID }
func (w *workload) nodeID() ID    { return w.ID() }
func (r *restoration) nodeID() ID { return r.ID() }

// ToEntry and its like tell the library which type a node is of.
func (n *node) ToEntry() (*entry, bool)             { return is[*entry](n) }
func (n *node) ToResource() (*resource, bool)       { return is[*resource](n) }
func (n *node) ToModel() (*model, bool)             { return is[*model](n) }
func (n *node) ToStep() (*step, bool)               { return is[*step](n) }
func (n *node) ToWorkload() (*workload, bool)       { return is[*workload](n) }
func (n *node) ToRestoration() (*restoration, bool) { return is[*restoration](n) }

func is[T any](n *node) (T, bool) {
	v, ok := n.value.(T)
	return v, ok
}

func (q *query) Node(ctx context.Context, args struct {
	ID ID
	asOf
}) (*node, error) {
	in, err := q.view(ctx, args.At, args.AsOfSize)
	if err != nil {
		return nil, err
	}
	return in.node(ctx, args.ID)
}

func (q *query) Nodes(ctx context.Context, args struct {
	IDs []ID
	asOf
}) ([]*node, error) {
	if len(args.IDs) > maxPage {
		return nil, &Error{Code: CodeLimit, Field: "ids", Message: strconv.Itoa(len(args.IDs)) + " are more than the limit of " + strconv.Itoa(maxPage)}
	}
	in, err := q.view(ctx, args.At, args.AsOfSize)
	if err != nil {
		return nil, err
	}
	out := make([]*node, len(args.IDs))
	for i, id := range args.IDs {
		if out[i], err = in.node(ctx, id); err != nil {
			return nil, err
		}
	}
	return out, in.spend(ctx, len(out))
}

// node is what the id stands for, nil if the answer does not know it. What is no
// id of ours may be that of a restoration.
func (a *answer) node(ctx context.Context, id ID) (*node, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(string(id))
	kind, value, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok {
		r, err := (&query{a.API}).Restoration(ctx, struct{ ID ID }{id})
		if r == nil || err != nil {
			return nil, err
		}
		return &node{r}, nil
	}
	n, err := a.known(ctx, kind, value)
	if errors.Is(err, lineage.ErrNotFound) {
		return nil, nil
	}
	return n, err
}

func (a *answer) known(ctx context.Context, kind, value string) (*node, error) {
	switch kind {
	case "entry", "step":
		index, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, badInput("id", "stands for nothing")
		}
		if kind == "entry" {
			e, err := a.entry(ctx, index)
			return nodeOf(e, err)
		}
		if _, err := a.View.Entry(index); err != nil {
			return nil, err
		}
		s, err := a.step(ctx, index)
		return nodeOf(s, err)
	case "resource":
		r, err := a.resource(schema.Key(value))
		return nodeOf(r, err)
	case "model":
		full, at, _ := strings.Cut(value, "#")
		entry, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return nil, badInput("id", "stands for nothing")
		}
		name := schema.NameModel + ":" + full
		p, err := a.naming(name, entry)
		if err != nil {
			return nil, err
		}
		m, err := a.modelAt(lineage.Ref{Text: full, Start: schema.Start{Key: p.Key, Run: p.Run}, Name: name, Entry: entry})
		return nodeOf(m, err)
	case "workload":
		p, err := a.View.Name(schema.NameWorkload + ":" + value)
		if err != nil {
			return nil, err
		}
		return &node{&workload{a, value, p}}, nil
	}
	return nil, badInput("id", "stands for nothing")
}

func nodeOf(v interface{ nodeID() ID }, err error) (*node, error) {
	if err != nil {
		return nil, err
	}
	return &node{v}, nil
}
