package graphql

import (
	"context"
	"errors"
	"iter"
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
	longArgs
	filterArgs
	PredicateType *string
	Where         *entryWhere
}) (*connection[*entry], error) {
	filter := args.filter()
	if args.PredicateType != nil {
		filter.PredicateType = *args.PredicateType
	}
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	from, newest, err := r.from(args.OrderBy)
	if err != nil {
		return nil, err
	}
	filter.Newest, filter.By = newest, r.in.View.Time()
	where := args.Where.conditions(r.in)
	if err := where.spend(ctx, r.in); err != nil {
		return nil, err
	}
	page := page[*entry](r, func(ctx context.Context) (int64, error) {
		if len(where) == 0 {
			return r.in.CountEntries(ctx, filter)
		}
		filter.Newest = false
		return scan(where.hold(ctx, r.in.Entries(ctx, 0, filter)))
	})
	for info, err := range where.hold(ctx, r.in.Entries(ctx, from, filter)) {
		if err != nil {
			return nil, err
		}
		if !page.add(r.in.entryOf(ctx, info), strconv.FormatInt(info.Index, 10)) {
			break
		}
	}
	return page, r.in.spend(ctx, len(page.items))
}

type refArgs struct{ Ref string }

// asOf is what an answer speaks for: names as they were at a time, and the first
// so many entries only.
type asOf struct {
	At       *graphql.Time
	AsOfSize *Long
}

// find resolves a reference for a request.
func (a *API) find(ctx context.Context, text string, of asOf) (*answer, lineage.Ref, error) {
	in, err := a.view(ctx, of.At, of.AsOfSize)
	if err != nil {
		return nil, lineage.Ref{}, err
	}
	ref, err := in.Resolve(text)
	return in, ref, err
}

func (q *query) Resource(ctx context.Context, args struct {
	refArgs
	asOf
}) (*resource, error) {
	in, ref, err := q.find(ctx, args.Ref, args.asOf)
	if err != nil {
		return nil, err
	}
	return in.resourceAt(ref)
}

func (q *query) Model(ctx context.Context, args struct {
	refArgs
	asOf
}) (*model, error) {
	in, ref, err := q.find(ctx, args.Ref, args.asOf)
	if err != nil {
		return nil, err
	}
	return in.modelAt(ref)
}

func (q *query) Models(ctx context.Context, args struct {
	longArgs
	filterArgs
	Name  *string
	Where *modelWhere
}) (*connection[*model], error) {
	filter, only := args.filter(), ""
	if args.Name != nil {
		only = *args.Name
	}
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	from, newest, err := r.from(args.OrderBy)
	if err != nil {
		return nil, err
	}
	filter.Newest, filter.By = newest, r.in.View.Time()
	where, err := args.Where.conditions(r.in)
	if err != nil {
		return nil, err
	}
	if err := where.spend(ctx, r.in); err != nil {
		return nil, err
	}
	page := page[*model](r, func(ctx context.Context) (int64, error) {
		if len(where) == 0 {
			return r.in.CountModels(ctx, only, filter)
		}
		filter.Newest = false
		return scan(where.hold(ctx, r.in.Models(ctx, 0, only, filter)))
	})
	for m, err := range where.hold(ctx, r.in.Models(ctx, from, only, filter)) {
		if err != nil {
			return nil, err
		}
		version, err := r.in.modelOf(m)
		if err != nil {
			return nil, err
		}
		if !page.add(version, strconv.FormatInt(m.Entry, 10)) {
			break
		}
	}
	return page, r.in.spend(ctx, len(page.items))
}

// scan counts what a list holds by reading it.
func scan[T any](items iter.Seq2[T, error]) (n int64, err error) {
	for _, err := range items {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

func (q *query) Steps(ctx context.Context, args struct {
	longArgs
	filterArgs
	Name  *string
	Where *stepWhere
}) (*connection[*step], error) {
	filter, only := args.filter(), ""
	if args.Name != nil {
		only = *args.Name
	}
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	from, newest, err := r.from(args.OrderBy)
	if err != nil {
		return nil, err
	}
	filter.Newest, filter.By = newest, r.in.View.Time()
	where, err := args.Where.conditions()
	if err != nil {
		return nil, err
	}
	if err := where.spend(ctx, r.in); err != nil {
		return nil, err
	}
	page := page[*step](r, func(ctx context.Context) (int64, error) {
		if err := r.in.spend(ctx, int(r.in.View.Size())); err != nil {
			return 0, err
		}
		filter.Newest = false
		return scan(where.hold(ctx, r.in.View.Steps(ctx, 0, only, filter)))
	})
	for s, err := range where.hold(ctx, r.in.View.Steps(ctx, from, only, filter)) {
		if err != nil {
			return nil, err
		}
		if !page.add(r.in.newStep(s), strconv.FormatInt(s.Entry, 10)) {
			break
		}
	}
	return page, r.in.spend(ctx, len(page.items))
}

func (q *query) Search(ctx context.Context, args struct {
	longArgs
	filterArgs
	Text string
}) (*connection[*entry], error) {
	if args.Text == "" {
		return nil, badInput("text", "is empty")
	}
	filter := args.filter()
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	from, newest, err := r.from(args.OrderBy)
	if err != nil {
		return nil, err
	}
	filter.Newest, filter.By = newest, r.in.View.Time()
	// Every entry may have to be read for one page.
	if err := r.in.spend(ctx, int(r.in.View.Size())); err != nil {
		return nil, err
	}
	page := page[*entry](r, func(ctx context.Context) (int64, error) {
		if err := r.in.spend(ctx, int(r.in.View.Size())); err != nil {
			return 0, err
		}
		filter.Newest = false
		return scan(r.in.View.Search(ctx, 0, args.Text, filter))
	})
	for info, err := range r.in.View.Search(ctx, from, args.Text, filter) {
		if err != nil {
			return nil, err
		}
		if !page.add(r.in.entryOf(ctx, info), strconv.FormatInt(info.Index, 10)) {
			break
		}
	}
	return page, nil
}

func (q *query) Lineage(ctx context.Context, args struct {
	refArgs
	walkArgs
	asOf
}) (*walk, error) {
	opt, err := args.options()
	if err != nil {
		return nil, err
	}
	in, ref, err := q.find(ctx, args.Ref, args.asOf)
	if err != nil {
		return nil, err
	}
	return in.walk(ctx, ref, opt)
}

func (q *query) Diff(ctx context.Context, args struct {
	Left, Right string
	asOf
}) (*diff, error) {
	in, left, err := q.find(ctx, args.Left, args.asOf)
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
	asOf
}) (*name, error) {
	in, err := q.view(ctx, args.At, args.AsOfSize)
	if err != nil {
		return nil, err
	}
	p, err := in.View.Name(args.Name)
	if err != nil {
		return nil, err
	}
	return &name{in, p}, nil
}

func (q *query) Names(ctx context.Context, args struct {
	pageArgs
	asOf
	Prefix *string
}) (*connection[*name], error) {
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	prefix := ""
	if args.Prefix != nil {
		prefix = *args.Prefix
	}
	all, err := r.in.View.Names(prefix)
	if err != nil {
		return nil, err
	}
	if err := r.in.spend(ctx, len(all)); err != nil {
		return nil, err
	}
	var found []*name
	for _, n := range all {
		p, err := r.in.View.Name(n)
		if errors.Is(err, lineage.ErrNotFound) {
			continue // not yet, or no longer
		}
		if err != nil {
			return nil, err
		}
		found = append(found, &name{r.in, p})
	}
	return pageFrom(r, found, func(n *name) string { return n.p.NameFact.Name }), nil
}

func (q *query) Workloads(ctx context.Context, args struct {
	pageArgs
	asOf
	Cluster, Namespace *string
}) (*connection[*workload], error) {
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	found, err := r.in.workloads(ctx, args.Cluster, args.Namespace)
	if err != nil {
		return nil, err
	}
	return pageFrom(r, found, func(w *workload) string { return w.full }), nil
}

func (q *query) Gaps(ctx context.Context, args struct {
	refArgs
	asOf
}) (*gapReport, error) {
	in, ref, err := q.find(ctx, args.Ref, args.asOf)
	if err != nil {
		return nil, err
	}
	if _, err := in.resourceAt(ref); err != nil {
		return nil, err
	}
	found, err := in.View.Gaps(ctx, ref, q.opt.Held)
	if err != nil {
		return nil, err
	}
	return &gapReport{in, ref, found}, in.spend(ctx, len(found))
}

// keyRef begins references to everything that a key vouched for.
const keyRef = "key:"

func (q *query) Impact(ctx context.Context, args struct {
	pageArgs
	refArgs
	asOf
	Since, Until *graphql.Time
}) (*connection[*reached], error) {
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	if r.backward {
		return nil, badInput("last", "what is reached is found on the way; ask for it from the beginning")
	}
	starts, err := r.in.starts(ctx, args.Ref)
	if err != nil {
		return nil, err
	}
	span := filterArgs{Since: args.Since, Until: args.Until}.filter()
	from := int64(0)
	if r.at != nil {
		if from, err = r.at.index(); err != nil {
			return nil, err
		}
	}
	impact := func(ctx context.Context) iter.Seq2[lineage.Reached, error] {
		return r.in.View.Impact(ctx, starts, lineage.Span{Since: span.Since, Until: span.Until})
	}
	page := page[*reached](r, func(ctx context.Context) (n int64, err error) {
		for _, err := range impact(ctx) {
			if err != nil {
				return 0, err
			}
			n++
		}
		return n, r.in.spend(ctx, int(n))
	})
	n := int64(0)
	for found, err := range impact(ctx) {
		if err != nil {
			return nil, err
		}
		if n++; n <= from {
			continue
		}
		if !page.add(&reached{r.in, found}, strconv.FormatInt(n, 10)) {
			break
		}
	}
	return page, r.in.spend(ctx, int(n))
}

// starts are where an impact begins.
func (a *answer) starts(ctx context.Context, text string) ([]schema.Start, error) {
	if id, ok := strings.CutPrefix(text, keyRef); ok {
		if err := a.spend(ctx, int(a.View.Size())); err != nil {
			return nil, err
		}
		return a.View.SignedBy(ctx, a.log.Entry, id)
	}
	ref, err := a.View.Resolve(text)
	if err != nil {
		return nil, err
	}
	if _, err := a.resourceAt(ref); err != nil {
		return nil, err
	}
	return []schema.Start{ref.Start}, nil
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
