package graphql

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// root holds the roots of the schema.
type root struct{ api *API }

// Query is the root of queries.
func (r *root) Query() *query { return &query{r.api} }

// Mutation is the root of mutations.
func (r *root) Mutation() *mutation { return &mutation{r.api} }

// query resolves Query.
type query struct{ *API }

func (q *query) Checkpoint() (*checkpoint, error) {
	c, err := parseCheckpoint(q.log.Checkpoint())
	if err != nil {
		return nil, err
	}
	if log, ok := q.log.(verify.CosignedLog); ok {
		if signed := log.Cosigned(); signed != nil {
			c.Cosigned, err = parseCheckpoint(signed)
		}
	}
	return c, err
}

func (q *query) Entry(ctx context.Context, args struct{ Index Long }) (*entry, error) {
	in, err := q.view(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	e, err := in.entry(ctx, int64(args.Index))
	if errors.Is(err, lineage.ErrNotFound) {
		return nil, nil
	}
	return e, err
}

type filterArgs struct {
	Namespace    *string
	Since, Until *graphql.Time
}

func (f filterArgs) filter() lineage.Filter {
	var out lineage.Filter
	if f.Namespace != nil {
		out.Namespace = *f.Namespace
	}
	if f.Since != nil {
		out.Since = f.Since.Time
	}
	if f.Until != nil {
		out.Until = f.Until.Time
	}
	return out
}

func (q *query) Entries(ctx context.Context, args struct {
	pageArgs
	filterArgs
	PredicateType *string
}) (*connection[*entry], error) {
	filter := args.filter()
	if args.PredicateType != nil {
		filter.PredicateType = *args.PredicateType
	}
	first, err := args.first()
	if err != nil {
		return nil, err
	}
	in, after, err := q.pageOf(ctx, args.pageArgs)
	if err != nil {
		return nil, err
	}
	from, err := fromIndex(after)
	if err != nil {
		return nil, err
	}
	page := &connection[*entry]{later: after != nil, count: func(ctx context.Context) (int64, error) { return in.CountEntries(ctx, filter) }}
	for info, err := range in.Entries(ctx, from, filter) {
		if err != nil {
			return nil, err
		}
		if !page.add(in.entryOf(ctx, info), cursor{in.View.Size(), strconv.FormatInt(info.Index, 10)}, first) {
			break
		}
	}
	return page, in.spend(ctx, len(page.items))
}

// fromIndex is the entry that a page begins at.
func fromIndex(after *cursor) (int64, error) {
	if after == nil {
		return 0, nil
	}
	index, err := after.index()
	return index + 1, err
}

type refArgs struct{ Ref string }

// find resolves a reference for a request.
func (a *API) find(ctx context.Context, text string, at *graphql.Time) (*answer, lineage.Ref, error) {
	in, err := a.view(ctx, at, nil)
	if err != nil {
		return nil, lineage.Ref{}, err
	}
	ref, err := in.Resolve(text)
	return in, ref, err
}

func (q *query) Resource(ctx context.Context, args refArgs) (*resource, error) {
	in, ref, err := q.find(ctx, args.Ref, nil)
	if err != nil {
		return nil, err
	}
	return in.resourceAt(ref)
}

func (q *query) Model(ctx context.Context, args struct {
	refArgs
	At *graphql.Time
}) (*model, error) {
	in, ref, err := q.find(ctx, args.Ref, args.At)
	if err != nil {
		return nil, err
	}
	return in.modelAt(ref)
}

func (q *query) Models(ctx context.Context, args struct {
	pageArgs
	filterArgs
	Name *string
}) (*connection[*model], error) {
	filter, only := args.filter(), ""
	if args.Name != nil {
		only = *args.Name
	}
	first, err := args.first()
	if err != nil {
		return nil, err
	}
	in, after, err := q.pageOf(ctx, args.pageArgs)
	if err != nil {
		return nil, err
	}
	from, err := fromIndex(after)
	if err != nil {
		return nil, err
	}
	page := &connection[*model]{later: after != nil, count: func(ctx context.Context) (int64, error) { return in.CountModels(ctx, only, filter) }}
	for m, err := range in.Models(ctx, from, only, filter) {
		if err != nil {
			return nil, err
		}
		version, err := in.modelOf(m)
		if err != nil {
			return nil, err
		}
		if !page.add(version, cursor{in.View.Size(), strconv.FormatInt(m.Entry, 10)}, first) {
			break
		}
	}
	return page, in.spend(ctx, len(page.items))
}

func (q *query) Lineage(ctx context.Context, args struct {
	refArgs
	walkArgs
	At       *graphql.Time
	AsOfSize *Long
}) (*walk, error) {
	opt, err := args.options()
	if err != nil {
		return nil, err
	}
	in, err := q.view(ctx, args.At, args.AsOfSize)
	if err != nil {
		return nil, err
	}
	ref, err := in.Resolve(args.Ref)
	if err != nil {
		return nil, err
	}
	return in.walk(ctx, ref, opt)
}

func (q *query) Diff(ctx context.Context, args struct{ Left, Right string }) (*diff, error) {
	in, left, err := q.find(ctx, args.Left, nil)
	if err != nil {
		return nil, err
	}
	right, err := in.Resolve(args.Right)
	if err != nil {
		return nil, err
	}
	for _, side := range []lineage.Ref{left, right} {
		if _, err := in.resourceAt(side); err != nil {
			return nil, err
		}
	}
	d, err := in.View.Diff(ctx, left, right)
	if err != nil {
		return nil, err
	}
	return &diff{in, d}, in.spend(ctx, len(d.Differences))
}

func (q *query) Name(ctx context.Context, args struct {
	Name string
	At   *graphql.Time
}) (*name, error) {
	in, err := q.view(ctx, args.At, nil)
	if err != nil {
		return nil, err
	}
	p, err := in.View.Name(args.Name)
	if err != nil {
		return nil, err
	}
	return &name{in, p}, nil
}

func (q *query) Workloads(ctx context.Context, args struct {
	pageArgs
	Cluster, Namespace *string
	At                 *graphql.Time
}) (*connection[*workload], error) {
	first, err := args.first()
	if err != nil {
		return nil, err
	}
	in, after, err := q.pageOf(ctx, args.pageArgs)
	if err != nil {
		return nil, err
	}
	if args.At != nil {
		size := Long(in.View.Size())
		if in, err = q.view(ctx, args.At, &size); err != nil {
			return nil, err
		}
	}
	found, err := in.workloads(ctx, args.Cluster, args.Namespace)
	if err != nil {
		return nil, err
	}
	page := &connection[*workload]{later: after != nil, count: func(context.Context) (int64, error) { return int64(len(found)), nil }}
	for _, w := range found {
		if after != nil && w.full <= after.key {
			continue
		}
		if !page.add(w, cursor{in.View.Size(), w.full}, first) {
			break
		}
	}
	return page, nil
}

// workloads are those that there were at the view's time, by name.
func (a *answer) workloads(ctx context.Context, cluster, namespace *string) ([]*workload, error) {
	prefix := schema.NameWorkload + ":"
	if cluster != nil {
		prefix += *cluster + "/"
	}
	names, err := a.View.Names(prefix)
	if err != nil {
		return nil, err
	}
	if err := a.spend(ctx, len(names)); err != nil {
		return nil, err
	}
	var out []*workload
	for _, n := range names {
		full := strings.TrimPrefix(n, schema.NameWorkload+":")
		if strings.Contains(full, "#") || namespace != nil && !inNamespace(full, *namespace) {
			continue
		}
		p, err := a.View.Name(n)
		if errors.Is(err, lineage.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, &workload{a, full, p})
	}
	return out, nil
}

func inNamespace(workload, namespace string) bool {
	parts := strings.Split(workload, "/")
	return len(parts) > 1 && parts[1] == namespace
}
