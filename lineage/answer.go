package lineage

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// Lineage is the part of the graph that is reachable from one resource.
type Lineage struct {
	Ref       Ref
	Direction schema.Direction
	Resources []schema.Resource // the root first, then in the order met
	Steps     []StepInfo        // in the order met; also those that used nothing, which no edge runs through
	Edges     []schema.Edge
	Entries   []int64 // that the answer rests on, ascending: with them alone the walk gives the same edges
	Truncated bool    // there were more edges than the limit, or deeper than the depth
	Size      int64
	Recorded  time.Time // when the last of those Size entries was recorded
	Time      time.Time // at which names were read; zero for the newest
	Bodiless  int       // entries below Size without a body, erased or withheld: what they state is not in the answer
	Holes     map[schema.Key][]Hole
	Retracted []Retraction // of Entries, and of the one that names what was asked for
	Vouched   []EntryInfo  // attestations of the root, if they were asked for
}

// StepInfo is a step with the entry that states it.
type StepInfo struct {
	Entry    int64
	Step     *schema.Step
	Evidence schema.Evidence
}

// LineageOptions bounds an answer. The zero value is everything upstream, up
// to DefaultEdges.
type LineageOptions struct {
	Direction schema.Direction
	Depth     int  // 0 for no bound
	Edges     int  // DefaultEdges if 0
	Vouched   bool // also who vouches for the root
	// Without are entries whose statements are left out of the answer, as if their
	// bodies were not here.
	Without []int64
}

// DefaultEdges is how many edges an answer holds unless told otherwise.
const DefaultEdges = 100000

// Lineage walks from ref. An answer that was cut off says so.
func (v *View) Lineage(ctx context.Context, ref Ref, opt LineageOptions) (*Lineage, error) {
	if opt.Edges <= 0 {
		opt.Edges = DefaultEdges
	}
	if opt.Direction == "" {
		opt.Direction = schema.Upstream
	}
	a := &Lineage{Ref: ref, Direction: opt.Direction, Size: v.size, Time: v.time, Bodiless: v.Bodiless(), Holes: map[schema.Key][]Hole{}}
	if v.size > 0 {
		last, err := v.Entry(v.size - 1)
		if err != nil {
			return nil, err
		}
		a.Recorded = last.RecordedAt
	}
	seen := map[schema.Key]bool{}
	var steps []int64 // in the order met
	met := map[int64]bool{}
	meet := func(step int64) {
		if step >= 0 && !met[step] {
			met[step] = true
			steps = append(steps, step)
		}
	}
	add := func(k schema.Key) error {
		if k == "" || seen[k] {
			return nil
		}
		seen[k] = true
		r, err := v.Resource(k)
		if err != nil {
			return err
		}
		a.Resources = append(a.Resources, r)
		if holes := v.Holes(k); len(holes) > 0 {
			a.Holes[k] = holes
		}
		return nil
	}
	if err := add(ref.Start.Key); err != nil {
		return nil, err
	}
	entries := map[int64]bool{}
	if ref.Entry >= 0 && ref.Name == "" {
		entries[ref.Entry] = true // that says what was asked about, which a walk downwards need not come upon
	}
	walk := schema.Walk(ctx, without(v, opt.Without), ref.Start, schema.WalkOptions{
		Direction: opt.Direction, Depth: opt.Depth, Size: v.size,
		Touched: func(entry int64) { entries[entry] = true },
		Made:    func(_ schema.Key, entry int64) { meet(entry) },
	})
	for e, err := range walk {
		if err != nil {
			return nil, err
		}
		if len(a.Edges) == opt.Edges {
			a.Truncated = true
			break
		}
		a.Edges = append(a.Edges, e)
		if err := add(e.From); err != nil {
			return nil, err
		}
		if err := add(e.To); err != nil {
			return nil, err
		}
		meet(e.Step)
	}
	if opt.Depth > 0 && !a.Truncated {
		var err error
		if a.Truncated, err = v.goesOn(ctx, a.Edges, opt); err != nil {
			return nil, err
		}
	}
	for _, entry := range steps {
		s, err := v.StepInfo(ctx, entry)
		if err != nil {
			return nil, err
		}
		a.Steps = append(a.Steps, s)
	}
	if err := v.addTrust(entries); err != nil {
		return nil, err
	}
	a.Entries = slices.Sorted(maps.Keys(entries))
	return a, v.judged(a, opt.Vouched)
}

// judged notes what was withdrawn of what an answer rests on, and who vouches for
// what was asked about if that was asked for.
func (v *View) judged(a *Lineage, vouched bool) (err error) {
	rests := a.Entries
	if named := a.Ref.Entry; named >= 0 && !slices.Contains(rests, named) {
		rests = append(slices.Clone(rests), named)
	}
	if a.Retracted, err = v.retracted(rests...); err != nil {
		return err
	}
	if vouched && a.Ref.Start.Key != "" {
		a.Vouched, err = v.Attestations(a.Ref.Start.Key)
	}
	return err
}

// without is a graph that some entries state nothing in.
func without(g schema.Graph, entries []int64) schema.Graph {
	if len(entries) == 0 {
		return g
	}
	return lessGraph{g, entries}
}

type lessGraph struct {
	schema.Graph
	without []int64
}

// Node implements schema.Graph.
func (g lessGraph) Node(ctx context.Context, k schema.Key, d schema.Direction) (*schema.Node, error) {
	n, err := g.Graph.Node(ctx, k, d)
	if err != nil {
		return nil, err
	}
	steps := func(all []int64) []int64 {
		return slices.DeleteFunc(slices.Clone(all), func(e int64) bool { return slices.Contains(g.without, e) })
	}
	relations := func(all []schema.EntryRelation) []schema.EntryRelation {
		return slices.DeleteFunc(slices.Clone(all), func(r schema.EntryRelation) bool { return slices.Contains(g.without, r.Entry) })
	}
	return &schema.Node{Made: steps(n.Made), Used: steps(n.Used), Up: relations(n.Up), Down: relations(n.Down)}, nil
}

// addTrust adds the trust entries that the grades of entries rest on: all
// that speak of a key which signed one of them, and every rotation of the
// ledger's own keys.
func (v *View) addTrust(entries map[int64]bool) error {
	signers := map[string]bool{}
	for entry := range entries {
		e, err := v.Entry(entry)
		if err != nil {
			return err
		}
		for _, id := range e.Signers {
			signers[id] = true
		}
	}
	v.g.mu.RLock()
	defer v.g.mu.RUnlock()
	for _, t := range v.g.trust {
		if t.Index < v.size && (signers[t.KeyID] || t.Action == "rotate") {
			entries[t.Index] = true
		}
	}
	return nil
}

// TrustFor are the trust entries that the grade of one entry rests on.
func (v *View) TrustFor(entry int64) ([]int64, error) {
	entries := map[int64]bool{entry: true}
	err := v.addTrust(entries)
	return slices.Sorted(maps.Keys(entries)), err
}

// goesOn says whether something lies beyond the edges that are as deep as opt
// allows.
func (v *View) goesOn(ctx context.Context, edges []schema.Edge, opt LineageOptions) (bool, error) {
	ends := func(e schema.Edge) (near, far schema.Key) {
		if opt.Direction == schema.Downstream {
			return e.To, e.From
		}
		return e.From, e.To
	}
	looked := map[schema.Key]bool{} // what lies beyond is in the answer, or was looked for
	for _, e := range edges {
		near, _ := ends(e)
		looked[near] = true
	}
	for _, e := range edges {
		_, far := ends(e)
		if e.Depth < opt.Depth-1 || looked[far] {
			continue
		}
		looked[far] = true
		for _, err := range schema.Walk(ctx, without(v, opt.Without), schema.Start{Key: far}, schema.WalkOptions{Direction: opt.Direction, Depth: 1, Size: v.size}) {
			return err == nil, err
		}
	}
	return false, nil
}

// StepInfo returns the step that the entry states, with its evidence.
func (v *View) StepInfo(ctx context.Context, entry int64) (StepInfo, error) {
	s, err := v.Step(ctx, entry)
	if err != nil {
		return StepInfo{}, err
	}
	grade, err := v.Grade(ctx, entry)
	return StepInfo{Entry: entry, Step: s, Evidence: grade.Evidence}, err
}

// Producers are the steps that made the resource where start begins: the run
// that it names, or every one.
func (v *View) Producers(ctx context.Context, start schema.Start) ([]StepInfo, error) {
	made, err := schema.Producers(ctx, v, start, v.size)
	if err != nil {
		return nil, err
	}
	return v.steps(ctx, made)
}

// steps are the steps that the entries state.
func (v *View) steps(ctx context.Context, entries []int64) ([]StepInfo, error) {
	var out []StepInfo
	for _, entry := range entries {
		s, err := v.StepInfo(ctx, entry)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Users are the steps that used k.
func (v *View) Users(ctx context.Context, k schema.Key) ([]StepInfo, error) {
	node, err := v.Node(ctx, k, schema.Downstream)
	if err != nil {
		return nil, err
	}
	used, err := schema.Standing(ctx, v, below(node.Used, v.size))
	if err != nil {
		return nil, err
	}
	return v.steps(ctx, used)
}

// below cuts ascending entries at a size.
func below(entries []int64, size int64) []int64 {
	n, _ := slices.BinarySearch(entries, size)
	return entries[:n]
}

// Relations are the relations that k stands in without a step, in both
// directions.
func (v *View) Relations(ctx context.Context, k schema.Key) (up, down []schema.EntryRelation, err error) {
	u, err := v.Node(ctx, k, schema.Upstream)
	if err != nil {
		return nil, nil, err
	}
	d, err := v.Node(ctx, k, schema.Downstream)
	if err != nil {
		return nil, nil, err
	}
	cut := func(rs []schema.EntryRelation) []schema.EntryRelation {
		for i, r := range rs {
			if r.Entry >= v.size {
				return rs[:i]
			}
		}
		return rs
	}
	return cut(u.Up), cut(d.Down), nil
}

// ModelVersion is a named version of a model.
type ModelVersion struct {
	Name       string
	Version    string
	Pointed    // where the version points
	RecordedAt time.Time
	Evidence   schema.Evidence
}
