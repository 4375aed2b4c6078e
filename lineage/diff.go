package lineage

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// Difference is one way in which what made two resources differs.
type Difference struct {
	// Kind is the role of the thing that differs (input, code, changes, image,
	// tool), or parameter, environment, command, platform or step; content of
	// two resources that no recorded step made.
	Kind  string
	Name  string // path, parameter name or step name
	Left  string // key or value; empty where only the right has it
	Right string
	// Depth is how many steps away from the two resources it lies.
	Depth int
	// Cause is false where the difference merely follows from one further up:
	// an input that differs because the step that made it differed.
	Cause bool
	Steps []StepPair // where it shows, nearest first
}

// StepPair is two steps that do the same work on both sides; -1 where one side
// has none.
type StepPair struct {
	Left  int64 `json:"left"`
	Right int64 `json:"right"`
}

// Diff is why two resources differ.
type Diff struct {
	Left, Right Ref
	Same        bool // the same bytes, made by the same step
	// LeftMetrics and RightMetrics are what the two producing steps reported:
	// the deviation to be explained.
	LeftMetrics, RightMetrics map[string]any
	Differences               []Difference // causes first, nearest first
	Size                      int64
}

// Diff pairs the graphs of two resources step by step, prunes what is equal,
// and reports what differs.
func (v *View) Diff(ctx context.Context, left, right Ref) (*Diff, error) {
	d := &differ{v: v, ctx: ctx, found: map[string]int{}, seen: map[[2]schema.Start]bool{}}
	out := &Diff{Left: left, Right: right, Size: v.size, Same: left.Start == right.Start}
	if err := d.roots(left.Start, right.Start); err != nil {
		return nil, err
	}
	slices.SortStableFunc(d.list, func(a, b Difference) int {
		if a.Cause != b.Cause {
			if a.Cause {
				return -1
			}
			return 1
		}
		return a.Depth - b.Depth
	})
	out.Differences = d.list
	var err error
	if out.LeftMetrics, err = v.Metrics(ctx, left.Start); err != nil {
		return nil, err
	}
	out.RightMetrics, err = v.Metrics(ctx, right.Start)
	return out, err
}

// Metrics are those that the step which made the resource reported and, where
// it did not report them, those of the nearest steps that used it.
func (v *View) Metrics(ctx context.Context, s schema.Start) (map[string]any, error) {
	made, err := v.Producers(ctx, s)
	if err != nil {
		return nil, err
	}
	used, err := v.Users(ctx, s.Key)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, step := range append(made, used...) {
		for _, u := range step.Step.Uses {
			if u.Key == s.Key && u.Producer != "" && s.Run != "" && u.Producer != s.Run {
				step.Step = &schema.Step{}
			}
		}
		for k, m := range step.Step.Metrics {
			if _, ok := out[k]; !ok {
				out[k] = m
			}
		}
	}
	return out, nil
}

type differ struct {
	v     *View
	ctx   context.Context
	list  []Difference
	found map[string]int // difference to its place in list
	seen  map[[2]schema.Start]bool
}

// report adds a difference, or another place where a known one shows.
func (d *differ) report(diff Difference, pair StepPair) {
	id := strings.Join([]string{diff.Kind, diff.Name, diff.Left, diff.Right}, "\x00")
	if i, ok := d.found[id]; ok {
		d.list[i].Steps = append(d.list[i].Steps, pair)
		return
	}
	d.found[id] = len(d.list)
	diff.Steps = []StepPair{pair}
	d.list = append(d.list, diff)
}

// roots compares the two resources themselves: bytes that differ and that no
// recorded step made, on one side or on both, are a difference too.
func (d *differ) roots(l, r schema.Start) error {
	left, err := d.producer(l, nil)
	if err != nil {
		return err
	}
	right, err := d.producer(r, nil)
	if err != nil {
		return err
	}
	switch {
	case left != nil && right != nil:
		return d.resources(made{l, left}, made{r, right}, 0)
	case l.Key == r.Key:
		return nil
	case left == nil && right == nil:
		d.report(Difference{Kind: "content", Left: string(l.Key), Right: string(r.Key), Cause: true}, StepPair{-1, -1})
		return nil
	}
	diff, pair := Difference{Kind: "step", Name: "producer", Cause: true}, StepPair{-1, -1}
	if left != nil {
		diff.Left, pair.Left = left.Step.Name, left.Entry
	} else {
		diff.Right, pair.Right = right.Step.Name, right.Entry
	}
	d.report(diff, pair)
	return nil
}

// made is a resource with the step that made it; nil where none is known.
type made struct {
	schema.Start
	by *StepInfo
}

// resources compares what made two resources that play the same part.
func (d *differ) resources(l, r made, depth int) error {
	pair := [2]schema.Start{l.Start, r.Start}
	if l.Start == r.Start || d.seen[pair] {
		return nil
	}
	d.seen[pair] = true
	if l.by == nil || r.by == nil || l.by.Entry == r.by.Entry {
		return nil
	}
	return d.steps(*l.by, *r.by, depth)
}

// producer is the step that made a resource before user used it; the newest
// where several did. A user of nil asks for the newest of all.
func (d *differ) producer(s schema.Start, user *StepInfo) (*StepInfo, error) {
	all, err := d.v.Producers(d.ctx, s)
	if err != nil {
		return nil, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if user == nil || !endedAfter(&all[i], user) {
			return &all[i], nil
		}
	}
	return nil, nil
}

// endedAfter says whether a step cannot have made what user used: it is that
// step, or it ended after that step began. A step that copies its input makes
// the bytes that it and the runs before it used.
func endedAfter(s, user *StepInfo) bool {
	began, ended := user.Step.Started, s.Step.Finished
	return s.Entry == user.Entry || (!began.IsZero() && !ended.IsZero() && ended.After(began))
}

func (d *differ) steps(l, r StepInfo, depth int) error {
	pair := StepPair{l.Entry, r.Entry}
	ls, rs := l.Step, r.Step
	simple := []struct{ kind, name, left, right string }{
		{"command", "", strings.Join(ls.Argv, " "), strings.Join(rs.Argv, " ")},
		{"platform", "", ls.Platform, rs.Platform},
		{"step", "builder", ls.Builder, rs.Builder},
	}
	for _, s := range simple {
		if s.left != s.right {
			d.report(Difference{Kind: s.kind, Name: s.name, Left: s.left, Right: s.right, Depth: depth, Cause: true}, pair)
		}
	}
	d.values("parameter", ls.Parameters, rs.Parameters, depth, pair)
	d.values("environment", ls.Environment, rs.Environment, depth, pair)
	return d.uses(l, r, depth)
}

func (d *differ) values(kind string, l, r map[string]string, depth int, pair StepPair) {
	names := slices.Sorted(maps.Keys(l))
	for _, n := range slices.Sorted(maps.Keys(r)) {
		if _, ok := l[n]; !ok {
			names = append(names, n)
		}
	}
	for _, n := range names {
		if l[n] != r[n] {
			d.report(Difference{Kind: kind, Name: n, Left: l[n], Right: r[n], Depth: depth, Cause: true}, pair)
		}
	}
}

// part is what a use plays in a step: uses of two steps are compared where
// they play the same.
func part(u schema.Use) string {
	if u.Path != "" {
		return u.Role + "\x00" + u.Path
	}
	if u.Role == schema.RoleInput {
		return u.Role + "\x00" + u.Name
	}
	return u.Role
}

func (d *differ) uses(ls, rs StepInfo, depth int) error {
	pair := StepPair{ls.Entry, rs.Entry}
	right := map[string]schema.Use{}
	for _, u := range rs.Step.Uses {
		if u.Role != schema.RoleParams { // reported one by one
			right[part(u)] = u
		}
	}
	for _, l := range ls.Step.Uses {
		if l.Role == schema.RoleParams {
			continue
		}
		r, ok := right[part(l)]
		delete(right, part(l))
		if !ok {
			d.report(Difference{Kind: l.Role, Name: useName(l), Left: string(l.Key), Depth: depth, Cause: true}, pair)
			continue
		}
		if err := d.use(used{l, &ls}, used{r, &rs}, depth); err != nil {
			return err
		}
	}
	for _, u := range rs.Step.Uses {
		if r, ok := right[part(u)]; ok {
			d.report(Difference{Kind: r.Role, Name: useName(r), Right: string(r.Key), Depth: depth, Cause: true}, pair)
		}
	}
	return nil
}

// used is a use with the step that used.
type used struct {
	schema.Use
	in *StepInfo
}

// use reports two things that differ, and goes on to what made them. A thing
// that nothing recorded made on either side is a cause; otherwise the cause
// lies further up.
func (d *differ) use(l, r used, depth int) error {
	if l.Key == r.Key {
		return nil
	}
	lm, err := d.madeBy(l)
	if err != nil {
		return err
	}
	rm, err := d.madeBy(r)
	if err != nil {
		return err
	}
	cause := lm.by == nil || rm.by == nil || lm.by.Entry == rm.by.Entry
	d.report(Difference{Kind: l.Role, Name: useName(l.Use), Left: string(l.Key), Right: string(r.Key), Depth: depth, Cause: cause}, StepPair{l.in.Entry, r.in.Entry})
	return d.resources(lm, rm, depth+1)
}

func (d *differ) madeBy(u used) (made, error) {
	s := schema.Start{Key: u.Key, Run: u.Producer}
	by, err := d.producer(s, u.in)
	return made{s, by}, err
}

func useName(u schema.Use) string {
	if u.Path != "" {
		return u.Path
	}
	return u.Name
}
