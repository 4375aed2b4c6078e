package graphql

import (
	"context"
	"net/http"

	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// Reverts plans reverts of repositories that are watched.
type Reverts interface {
	// PlanRevert says what `retrace revert --plan` would, from the entries that v
	// speaks for. It changes nothing.
	PlanRevert(ctx context.Context, v *lineage.View, q RevertQuery) (*RevertPlan, error)
}

// RevertQuery says what shall be put back.
type RevertQuery struct {
	Repository string // URL of a source that is watched
	Branch     string
	To         string // reference; the branch at the view's time if empty
	Paths      []string
}

// RevertPlan is a commit that would put a state back.
type RevertPlan struct {
	Repository, Branch string
	Head, To           string // commits
	Said               int64  // entry that says that this was the state; -1 for none
	Files              []RevertFile
	Diff               string
	Needs              []RevertNeed
	Size               int64
}

// RevertFile is a file that would change.
type RevertFile struct{ Path, From, To string }

// RevertNeed is something that the state needs.
type RevertNeed struct{ Kind, Name, Path, Found, Problem string }

func (q *query) RevertPlan(ctx context.Context, args struct {
	Repository string
	Branch     string
	To         *string
	Paths      *[]string
	At         *graphql.Time
	AsOfSize   *Long
}) (*revertPlan, error) {
	if q.opt.Reverts == nil {
		return nil, &Error{Code: CodeUnavailable, Message: "this server plans no reverts"}
	}
	if who := askerOf(ctx); !who.rights.Restore {
		who.refused.Store(http.StatusUnauthorized)
		return nil, &Error{Code: CodeForbidden, Message: "a diff shows what files hold: this needs a token with the role restorer"}
	}
	in, err := q.view(ctx, args.At, args.AsOfSize)
	if err != nil {
		return nil, err
	}
	asked := RevertQuery{Repository: args.Repository, Branch: args.Branch}
	if args.To != nil {
		asked.To = *args.To
	} else if args.At == nil {
		return nil, badInput("to", "which state? give to, or at for what the branch was then")
	}
	if args.Paths != nil {
		asked.Paths = *args.Paths
	}
	p, err := q.opt.Reverts.PlanRevert(ctx, in.View, asked)
	if err != nil {
		return nil, err
	}
	return &revertPlan{in, p}, in.spend(ctx, len(p.Files)+len(p.Needs))
}

// revertPlan resolves RevertPlan.
type revertPlan struct {
	in *answer
	p  *RevertPlan
}

func (r *revertPlan) Repository() string { return r.p.Repository }
func (r *revertPlan) Branch() string     { return r.p.Branch }
func (r *revertPlan) Head() Digest       { return Digest(schema.GitCommit + ":" + r.p.Head) }
func (r *revertPlan) To() Digest         { return Digest(schema.GitCommit + ":" + r.p.To) }
func (r *revertPlan) Diff() string       { return r.p.Diff }
func (r *revertPlan) Size() Long         { return Long(r.p.Size) }

func (r *revertPlan) Entry(ctx context.Context) (*entry, error) {
	if r.p.Said < 0 {
		return nil, nil
	}
	return r.in.entry(ctx, r.p.Said)
}

type revertFile struct {
	Path     string
	From, To *Digest
}

func (r *revertPlan) Files() []revertFile {
	out := []revertFile{}
	for _, f := range r.p.Files {
		one := revertFile{Path: f.Path}
		if f.From != "" {
			d := Digest(f.From)
			one.From = &d
		}
		if f.To != "" {
			d := Digest(f.To)
			one.To = &d
		}
		out = append(out, one)
	}
	return out
}

type revertNeed struct {
	Kind, Name, Path string
	Found, Problem   *string
}

func (r *revertPlan) Needs() []revertNeed {
	out := []revertNeed{}
	for _, n := range r.p.Needs {
		out = append(out, revertNeed{n.Kind, n.Name, n.Path, text(n.Found), text(n.Problem)})
	}
	return out
}
