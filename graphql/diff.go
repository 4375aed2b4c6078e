package graphql

import (
	"context"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// diff resolves Diff.
type diff struct {
	in *answer
	d  *lineage.Diff
}

func (d *diff) Left() (*resource, error)     { return d.in.resourceAt(d.d.Left) }
func (d *diff) Right() (*resource, error)    { return d.in.resourceAt(d.d.Right) }
func (d *diff) Same() bool                   { return d.d.Same }
func (d *diff) Size() Long                   { return Long(d.d.Size) }
func (d *diff) LeftMetrics() (*JSON, error)  { return jsonOf(d.d.LeftMetrics) }
func (d *diff) RightMetrics() (*JSON, error) { return jsonOf(d.d.RightMetrics) }
func (d *diff) Differences() *[]difference {
	out := make([]difference, len(d.d.Differences))
	for i := range d.d.Differences {
		out[i] = difference{d.in, &d.d.Differences[i]}
	}
	return &out
}

// difference resolves Difference.
type difference struct {
	in *answer
	d  *lineage.Difference
}

func (d difference) Kind() *string  { return text(d.d.Kind) }
func (d difference) Name() *string  { return text(d.d.Name) }
func (d difference) Left() *string  { return text(d.d.Left) }
func (d difference) Right() *string { return text(d.d.Right) }
func (d difference) Cause() *bool   { return &d.d.Cause }

func (d difference) Depth() *int32 { return number(d.d.Depth) }

func (d difference) Steps() *[]stepPair {
	out := make([]stepPair, len(d.d.Steps))
	for i, p := range d.d.Steps {
		out[i] = stepPair{d.in, p}
	}
	return &out
}

// Changes is null for what differs in itself and holds nothing.
func (d difference) Changes(ctx context.Context) (*[]change, error) {
	left, leftErr := schema.ParseKey(d.d.Left)
	right, rightErr := schema.ParseKey(d.d.Right)
	if leftErr != nil || rightErr != nil {
		return nil, nil
	}
	found, err := d.in.View.Changes(ctx, d.in.log.Entry, left, right)
	if err != nil || found == nil {
		return nil, err
	}
	if err := d.in.spend(ctx, len(found)); err != nil {
		return nil, err
	}
	out := make([]change, len(found))
	for i, c := range found {
		out[i] = change{c.Path, text(c.Left), text(c.Right), long(c.LeftSize), long(c.RightSize)}
	}
	return &out, nil
}

// change resolves Change.
type change struct {
	Path                string
	Left, Right         *string
	LeftSize, RightSize *Long
}

// stepPair resolves StepPair.
type stepPair struct {
	in *answer
	p  lineage.StepPair
}

func (p stepPair) Left(ctx context.Context) (*step, error)  { return p.in.step(ctx, p.p.Left) }
func (p stepPair) Right(ctx context.Context) (*step, error) { return p.in.step(ctx, p.p.Right) }
