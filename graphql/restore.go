package graphql

import (
	"context"
	"errors"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// Restores plans restorations and runs them as jobs. The server is one.
type Restores interface {
	// Plan says what restoring ref would do, for the size that v speaks for.
	Plan(ctx context.Context, v *lineage.View, ref lineage.Ref) (*Plan, error)
	// Start runs plan, which was made of the first size entries, as a job that the
	// server's end does not end. place is the name of a place that the
	// configuration knows, or "" for a new folder.
	Start(ctx context.Context, ref string, size int64, plan *Plan, place string) (Restoration, error)
	// Restoration is how far a job has come; ErrNoRestoration if there is none.
	Restoration(ctx context.Context, id string) (Restoration, error)
}

// ErrNoRestoration says that no restoration has an id.
var ErrNoRestoration = errors.New("no such restoration")

// Plan is what a restoration does, in order.
type Plan struct {
	Steps []PlanStep
	Bytes int64 // to write, as far as sizes are recorded; -1 if not known
	// Do lays the plan out in dir, an existing empty folder, and checks every
	// digest. It reports each step that is done.
	Do func(ctx context.Context, dir string, done func(step int)) (Outcome, error)
}

// PlanStep is one thing that a restoration lays out.
type PlanStep struct {
	Action string     `json:"action"`
	Path   string     `json:"path,omitempty"` // relative to the restored place
	Digest schema.Key `json:"digest,omitempty"`
	Kind   string     `json:"kind,omitempty"`
	Size   int64      `json:"size"` // bytes; -1 if not known
}

// Outcome is how a restoration ended. An error instead of one means that it
// could not be told.
type Outcome struct {
	Verdict string // COMPLETE or INCOMPLETE
	Problem string // why it is not complete
}

// States of a restoration.
const (
	Running = "RUNNING"
	Done    = "DONE"
	Failed  = "FAILED"
)

// Restoration is a job and how far it has come.
type Restoration struct {
	ID      string     `json:"id"` // random
	State   string     `json:"state"`
	Ref     string     `json:"ref"`
	Steps   []PlanStep `json:"steps"`
	Done    int        `json:"done"`
	Verdict string     `json:"verdict,omitempty"`
	Problem string     `json:"problem,omitempty"`
	Place   string     `json:"place"`
}

var errNoRestores = &Error{Code: CodeUnavailable, Message: "this server does not restore"}

func (q *query) RestorePlan(ctx context.Context, args struct {
	refArgs
	asOf
}) (*restorePlan, error) {
	in, ref, plan, err := q.plan(ctx, args.Ref, args.asOf)
	if err != nil {
		return nil, err
	}
	return &restorePlan{in, ref, plan}, nil
}

func (a *API) plan(ctx context.Context, text string, of asOf) (*answer, lineage.Ref, *Plan, error) {
	in, ref, err := a.find(ctx, text, of)
	if err != nil {
		return nil, ref, nil, err
	}
	if _, err := in.resourceAt(ref); err != nil {
		return nil, ref, nil, err
	}
	if a.opt.Restores == nil {
		return nil, ref, nil, errNoRestores
	}
	plan, err := a.opt.Restores.Plan(ctx, in.View, ref)
	return in, ref, plan, err
}

func (q *query) Restoration(ctx context.Context, args struct{ ID ID }) (*restoration, error) {
	if q.opt.Restores == nil {
		return nil, nil
	}
	r, err := q.opt.Restores.Restoration(ctx, string(args.ID))
	if errors.Is(err, ErrNoRestoration) {
		return nil, nil
	}
	return &restoration{r}, err
}

func (m *mutation) Restore(ctx context.Context, args struct {
	refArgs
	Target *string
}) (*restoration, error) {
	if err := allow(ctx, func(r Rights) bool { return r.Restore }); err != nil {
		return nil, err
	}
	in, _, plan, err := m.plan(ctx, args.Ref, asOf{})
	if err != nil {
		return nil, err
	}
	place := ""
	if args.Target != nil {
		place = *args.Target
	}
	r, err := m.opt.Restores.Start(ctx, args.Ref, in.View.Size(), plan, place)
	if err != nil {
		return nil, err
	}
	return &restoration{r}, nil
}

// restorePlan resolves RestorePlan.
type restorePlan struct {
	in   *answer
	ref  lineage.Ref
	plan *Plan
}

func (p *restorePlan) Ref() string                               { return p.ref.Text }
func (p *restorePlan) Resource() (*resource, error)              { return p.in.resourceAt(p.ref) }
func (p *restorePlan) Steps() []planStep                         { return planSteps(p.plan.Steps) }
func (p *restorePlan) Bytes() *Long                              { return long(p.plan.Bytes) }
func (p *restorePlan) Size() Long                                { return Long(p.in.View.Size()) }
func (p *restorePlan) Gaps(ctx context.Context) (*[]*gap, error) { return p.in.gaps(ctx, p.ref) }

// planStep resolves RestoreStep.
type planStep struct{ s PlanStep }

func planSteps(steps []PlanStep) []planStep {
	out := make([]planStep, len(steps))
	for i, s := range steps {
		out[i] = planStep{s}
	}
	return out
}

func (p planStep) Action() string { return p.s.Action }
func (p planStep) Path() *string  { return text(p.s.Path) }
func (p planStep) Kind() *string  { return text(p.s.Kind) }
func (p planStep) Size() *Long    { return long(p.s.Size) }

func (p planStep) Digest() *Digest {
	if !p.s.Digest.Digested() {
		return nil
	}
	d := Digest(p.s.Digest)
	return &d
}

// restoration resolves Restoration.
type restoration struct{ r Restoration }

func (r *restoration) ID() ID            { return ID(r.r.ID) }
func (r *restoration) State() string     { return r.r.State }
func (r *restoration) Ref() string       { return r.r.Ref }
func (r *restoration) Steps() []planStep { return planSteps(r.r.Steps) }
func (r *restoration) Done() int32       { return int32(r.r.Done) }
func (r *restoration) Total() int32      { return int32(len(r.r.Steps)) }
func (r *restoration) Verdict() *string  { return text(r.r.Verdict) }
func (r *restoration) Problem() *string  { return text(r.r.Problem) }
func (r *restoration) Place() string     { return r.r.Place }
