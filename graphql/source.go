package graphql

import (
	"context"

	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// watched resolves Source.
type watched struct {
	in *answer
	s  lineage.Source
}

func (s *watched) Name() string                              { return s.s.Name }
func (s *watched) Namespace() string                         { return s.s.Namespace }
func (s *watched) Until() *graphql.Time                      { return instant(s.s.Until) }
func (s *watched) Blind() bool                               { return s.s.Blind }
func (s *watched) BlindIntervals() Long                      { return Long(s.s.Intervals) }
func (s *watched) Entry(ctx context.Context) (*entry, error) { return s.in.entry(ctx, s.s.Entry) }

func (q *query) Sources(ctx context.Context, args struct {
	pageArgs
	asOf
}) (*connection[*watched], error) {
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	all, err := r.in.View.Sources(ctx)
	if err != nil {
		return nil, err
	}
	found := make([]*watched, len(all))
	for i, s := range all {
		found[i] = &watched{r.in, s}
	}
	// A space sorts before all that names hold.
	return pageFrom(r, found, func(s *watched) string { return s.s.Name + " " + s.s.Namespace }), r.in.spend(ctx, len(found))
}

func (q *query) Resources(ctx context.Context, args struct {
	pageArgs
	asOf
	Kind  *string
	Where *resourceWhere
}) (*connection[*resource], error) {
	r, err := q.reading(ctx, args.pageArgs, args.asOf)
	if err != nil {
		return nil, err
	}
	kind, after := "", schema.Key("")
	if args.Kind != nil {
		kind = *args.Kind
	}
	if r.at != nil {
		after = schema.Key(r.at.key)
	}
	where := args.Where.conditions()
	if err := where.spend(ctx, r.in); err != nil {
		return nil, err
	}
	page := page[*resource](r, func(ctx context.Context) (int64, error) {
		n, err := scan(where.hold(ctx, r.in.View.Resources(ctx, "", kind, false)))
		if err != nil {
			return 0, err
		}
		return n, r.in.spend(ctx, int(n))
	})
	for found, err := range where.hold(ctx, r.in.View.Resources(ctx, after, kind, r.backward)) {
		if err != nil {
			return nil, err
		}
		if !page.add(r.in.newResource(refTo(found.Key), found), string(found.Key)) {
			break
		}
	}
	return page, r.in.spend(ctx, len(page.items))
}
