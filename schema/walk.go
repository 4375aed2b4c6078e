package schema

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// Direction of a walk.
type Direction string

// The directions: towards what a resource was made from, or towards what was
// made from it.
const (
	Upstream   Direction = "UPSTREAM"
	Downstream Direction = "DOWNSTREAM"
)

// Graph is what a walk needs of the facts of many entries. The lineage index
// is one, over a whole ledger; FactGraph is one, over the entries of a bundle.
// Because both are walked by the same Walk, a server's answer and an offline
// verifier's cannot differ in anything but the entries they hold.
type Graph interface {
	// Node returns what is stated about k, at least the lists that a walk in
	// direction d reads: Made and Up for Upstream, Used and Down for
	// Downstream. An unknown key gives an empty node.
	Node(ctx context.Context, k Key, d Direction) (*Node, error)
	// Step returns the step that the entry states.
	Step(ctx context.Context, entry int64) (*Step, error)
	// Grade returns how we know what the entry states, and in which namespace it
	// was recorded.
	Grade(ctx context.Context, entry int64) (Grade, error)
}

// Grade is how an entry stands among others about the same run.
type Grade struct {
	Evidence  Evidence
	Namespace string
}

// Node is where a resource stands in the graph. All lists are in ascending
// order of entry.
type Node struct {
	Made []int64         // entries whose step generated it
	Used []int64         // entries whose step used it
	Up   []EntryRelation // relations in which it is From
	Down []EntryRelation // relations in which it is To
}

// EntryRelation is a relation with the entry that states it.
type EntryRelation struct {
	Relation
	Entry int64
}

// Edge says that From was made from To.
type Edge struct {
	From      Key      `json:"from"`
	To        Key      `json:"to"`
	Step      int64    `json:"step"`           // entry that states the step between them; -1 where there is none
	Relation  string   `json:"relation"`       // "used", or the kind of relation
	Role      string   `json:"role,omitempty"` // of a use
	Path      string   `json:"path,omitempty"` // of a use
	Entry     int64    `json:"entry"`          // that states the edge
	Evidence  Evidence `json:"evidence"`
	Ambiguous bool     `json:"ambiguous,omitempty"` // From has several recorded producers, and none was named
	Depth     int      `json:"depth"`               // of the end that is nearer the root; 0 at the root
}

// Start is where a walk begins.
type Start struct {
	Key Key
	// Run restricts the producers of Key to the step with this run ID: a model
	// version is a digest and the step that made it.
	Run string
}

// WalkOptions bounds a walk. The zero value walks everything upstream.
type WalkOptions struct {
	Direction Direction // Upstream if empty
	Depth     int       // edges from the start; 0 for no bound
	Size      int64     // entries from this index on are not seen; 0 for no bound
	// DepthFirst follows each edge downstream at once, so that what lies far below
	// a resource that much was made from is reached without going through all of
	// it first. Depths are then those of the way taken, and an edge can be yielded
	// more than once.
	DepthFirst bool
	// Touched, if set, is called with every entry that the walk rests on,
	// perhaps more than once: a walk over those entries alone gives the same
	// edges.
	Touched func(entry int64)
	// Made, if set, is called on a walk upstream with each resource reached and
	// each step that made it, perhaps more than once: also for a step that used
	// nothing, of which no edge tells.
	Made func(k Key, entry int64)
}

// Walk yields the edges reachable from start, nearest first, each once. The
// order is a function of the entries alone. Its cost is that of the edges it
// yields.
//
// Rules (docs/formats.md, "Graph"): a use that names its producer is bound to
// it, otherwise to every producer; what several entries state of one run counts
// as one step, by the best of them; empty files and folders join nothing; the
// files of a folder are followed where a step generated them; the parents and
// the tree of a commit are not followed.
func Walk(ctx context.Context, g Graph, start Start, opt WalkOptions) iter.Seq2[Edge, error] {
	if opt.Direction == "" {
		opt.Direction = Upstream
	}
	w := &walker{ctx: ctx, g: g, opt: opt, places: make(map[Key]int, usual), visits: make([]visited, 0, usual), queue: make([]queued, 0, usual), lastEntry: -1}
	return func(yield func(Edge, error) bool) {
		w.push(start, 0)
		for len(w.queue) > 0 {
			next := w.queue[0]
			w.queue = w.queue[1:]
			if err := ctx.Err(); err != nil {
				yield(Edge{}, err)
				return
			}
			if err := w.visit(next, yield); err != nil {
				if !errors.Is(err, errStop) {
					yield(Edge{}, err)
				}
				return
			}
		}
	}
}

// queued is a visit that is due.
type queued struct {
	Start
	depth int
	place int // in walker.visits
}

// visited is what was done at one resource. It is visited once for every
// producer, and before that perhaps for the producers that uses named.
type visited struct {
	all     bool     // queued for every producer
	runs    []string // queued for these producers
	steps   []int64  // whose edges were yielded
	related bool     // its relations were yielded
}

// edgeID tells edges apart: an edge met on two ways is yielded once.
type edgeID struct {
	from, to    Key
	step, entry int64
	kind, role  string
	path        string
}

type walker struct {
	ctx    context.Context
	g      Graph
	opt    WalkOptions
	queue  []queued
	places map[Key]int
	visits []visited
	// emitted is kept downstream only, where the edges of one step are met at
	// each of its uses. Upstream, visits tell what was yielded.
	emitted map[edgeID]bool
	// standing are the producers that count, of what has several. It is kept
	// downstream only, where they are asked for once for each use.
	standing map[Key][]int64
	// lastEntry and lastGrade save looking up the grade of each edge of a step.
	lastEntry int64
	lastGrade Grade
}

// usual is how many resources a walk makes room for at first.
const usual = 128

var errStop = errors.New("the caller stopped the walk")

func (w *walker) push(s Start, depth int) {
	if w.opt.Depth > 0 && depth >= w.opt.Depth {
		return
	}
	place, ok := w.places[s.Key]
	if !ok {
		place = len(w.visits)
		w.places[s.Key] = place
		w.visits = append(w.visits, visited{})
	}
	v := &w.visits[place]
	switch {
	case v.all, s.Run != "" && slices.Contains(v.runs, s.Run):
		return
	case s.Run == "":
		v.all = true
	default:
		v.runs = append(v.runs, s.Run)
	}
	w.queue = append(w.queue, queued{s, depth, place})
}

// visible cuts an ascending list of entries at the size asked for.
func (w *walker) visible(entries []int64) []int64 {
	if last := len(entries) - 1; w.opt.Size == 0 || last < 0 || entries[last] < w.opt.Size {
		return entries
	}
	n, _ := slices.BinarySearch(entries, w.opt.Size)
	return entries[:n]
}

func (w *walker) visit(q queued, yield func(Edge, error) bool) error {
	// Empty content joins nothing, but a run that made it can be asked about.
	if q.Key.Empty() && (q.depth > 0 || q.Run == "" || w.opt.Direction == Downstream) {
		return nil
	}
	node, err := w.g.Node(w.ctx, q.Key, w.opt.Direction)
	if err != nil {
		return err
	}
	if w.opt.Direction == Downstream {
		return w.down(q, node, yield)
	}
	return w.up(q, node, yield)
}

func (w *walker) up(q queued, node *Node, yield func(Edge, error) bool) error {
	made, ambiguous, err := w.producers(node, q.Run)
	if err != nil {
		return err
	}
	for _, entry := range made {
		w.touch(entry)
		if w.opt.Made != nil {
			w.opt.Made(q.Key, entry)
		}
		if slices.Contains(w.visits[q.place].steps, entry) {
			continue
		}
		v := &w.visits[q.place]
		v.steps = append(v.steps, entry)
		step, err := w.g.Step(w.ctx, entry)
		if err != nil {
			return err
		}
		if err := w.uses(q, entry, step, ambiguous, yield); err != nil {
			return err
		}
	}
	if w.visits[q.place].related {
		return nil
	}
	w.visits[q.place].related = true
	return w.relations(q, node, yield)
}

// uses yields the edges from q to what a step that made it used.
func (w *walker) uses(q queued, entry int64, step *Step, ambiguous bool, yield func(Edge, error) bool) error {
	var seen map[Use]bool
	if len(step.Uses) > few {
		seen = make(map[Use]bool, len(step.Uses))
	}
	for i := range step.Uses {
		u := &step.Uses[i]
		if !repeated(step.Uses[:i], *u, seen, sameUse) {
			e := Edge{From: q.Key, To: u.Key, Step: entry, Relation: RelUsed, Role: u.Role, Path: u.Path, Entry: entry, Ambiguous: ambiguous, Depth: q.depth}
			if err := w.emit(&e, false, yield); err != nil {
				return err
			}
		}
		// A copy is made of equal bytes, and goes on where another run made them.
		if u.Key != q.Key || (u.Producer != "" && u.Producer != step.Run) {
			w.push(Start{u.Key, u.Producer}, q.depth+1)
		}
	}
	return nil
}

// few is up to how many things comparing each with all before it is faster
// than a map.
const few = 12

// repeated says whether x is like one of those before it. Where there are more
// than few, seen remembers them instead, by what same makes of them.
func repeated[T comparable](before []T, x T, seen map[T]bool, same func(T) T) bool {
	x = same(x)
	if seen != nil {
		was := seen[x]
		seen[x] = true
		return was
	}
	for i := range before {
		if same(before[i]) == x {
			return true
		}
	}
	return false
}

// sameUse is the part of a use that its edge shows.
func sameUse(u Use) Use { return Use{Key: u.Key, Role: u.Role, Path: u.Path} }

// sameRelation is the part of a relation that its edge shows.
func sameRelation(r EntryRelation) EntryRelation {
	r.Claimed = false
	return r
}

// relations yields the edges from q to what it relates to without a step.
func (w *walker) relations(q queued, node *Node, yield func(Edge, error) bool) error {
	var seen map[EntryRelation]bool
	if len(node.Up) > few {
		seen = make(map[EntryRelation]bool, len(node.Up))
	}
	for i, r := range node.Up {
		if w.opt.Size > 0 && r.Entry >= w.opt.Size {
			break
		}
		if r.Kind == RelLayersOn {
			if err := w.base(q, node, r, yield); err != nil {
				return err
			}
			continue
		}
		follow, err := w.follows(r.Relation)
		if err != nil {
			return err
		}
		if !follow || repeated(node.Up[:i], r, seen, sameRelation) {
			continue
		}
		e := Edge{From: r.From, To: r.To, Step: -1, Relation: r.Kind, Entry: r.Entry, Depth: q.depth}
		if err := w.emit(&e, r.Claimed, yield); err != nil {
			return err
		}
		// The bytes at a location are not what made it, nor is an image what made the
		// file that names it.
		if r.Kind != RelHolds && r.Kind != RelRefers {
			w.push(Start{Key: r.To}, q.depth+1)
		}
	}
	return nil
}

// base yields the edge from q to the image whose layers are the first of its
// own: of several with those layers the one that was recorded first. It is a
// claim, as layers can be copied. What a label says already is not said again.
func (w *walker) base(q queued, node *Node, r EntryRelation, yield func(Edge, error) bool) error {
	chain, err := w.g.Node(w.ctx, r.To, Upstream)
	if err != nil {
		return err
	}
	of := w.layersOf(chain.Up)
	said := func(x EntryRelation) bool { return x.Kind == RelBase && x.To == of.To }
	if of.To == "" || slices.ContainsFunc(node.Up, said) {
		return nil
	}
	w.touch(of.Entry)
	e := Edge{From: q.Key, To: of.To, Step: -1, Relation: RelBase, Entry: r.Entry, Depth: q.depth}
	if err := w.emit(&e, true, yield); err != nil {
		return err
	}
	w.push(Start{Key: of.To}, q.depth+1)
	return nil
}

// layersOf is the first of the relations of a chain that says which image it is
// all the layers of, the zero value if there is none.
func (w *walker) layersOf(relations []EntryRelation) EntryRelation {
	for _, r := range relations {
		if w.opt.Size > 0 && r.Entry >= w.opt.Size {
			break
		}
		if r.Kind == RelLayersOf {
			return r
		}
	}
	return EntryRelation{}
}

// builtOn yields the edges to q from the images whose first layers are its own.
func (w *walker) builtOn(q queued, chain Key, yield func(Edge, error) bool) error {
	up, err := w.g.Node(w.ctx, chain, Upstream)
	if err != nil {
		return err
	}
	of := w.layersOf(up.Up)
	if of.To != q.Key {
		return nil
	}
	node, err := w.g.Node(w.ctx, chain, Downstream)
	if err != nil {
		return err
	}
	for _, r := range node.Down {
		if w.opt.Size > 0 && r.Entry >= w.opt.Size {
			break
		}
		if r.Kind != RelLayersOn {
			continue
		}
		w.touch(of.Entry)
		e := Edge{From: r.From, To: q.Key, Step: -1, Relation: RelBase, Entry: r.Entry, Depth: q.depth}
		if err := w.emitOnce(e, true, yield); err != nil {
			return err
		}
		w.push(Start{Key: r.From}, q.depth+1)
	}
	return nil
}

// Producers are the entries whose step made what start names, in ascending
// order, by the rules of Walk. Entries from size on are not seen, if it is not 0.
func Producers(ctx context.Context, g Graph, start Start, size int64) ([]int64, error) {
	node, err := g.Node(ctx, start.Key, Upstream)
	if err != nil {
		return nil, err
	}
	w := &walker{ctx: ctx, g: g, opt: WalkOptions{Size: size}, lastEntry: -1}
	made, _, err := w.producers(node, start.Run)
	return made, err
}

// Standing leaves of entries that state steps those that count: of each run in
// each namespace the best, by the rules of Walk.
func Standing(ctx context.Context, g Graph, entries []int64) ([]int64, error) {
	standing, _, err := (&walker{ctx: ctx, g: g, lastEntry: -1}).runs(entries)
	return standing, err
}

// producers are the entries whose step made a node, only those of run where
// one is named and known, of these the claimed ones only if there are no
// better, and whether there are several to choose from.
func (w *walker) producers(node *Node, run string) ([]int64, bool, error) {
	made, named, err := w.runs(w.visible(node.Made))
	if err != nil {
		return nil, false, err
	}
	for _, entry := range made {
		if by, ok := named[entry]; ok {
			w.touch(by)
		}
	}
	if run != "" {
		var of []int64
		for _, entry := range made {
			by, ok := named[entry]
			if !ok {
				by = entry
			}
			step, err := w.g.Step(w.ctx, by)
			if err != nil {
				return nil, false, err
			}
			if step.Run == run {
				of = append(of, entry)
			}
		}
		if len(of) > 0 {
			of, err := w.vouched(of)
			return of, len(of) > 1, err
		}
	}
	return made, len(made) > 1, nil
}

// runs leaves one entry for each run of those whose steps made the same thing,
// where one is enough: the best evidence stands, the attestation of a build
// before what was seen of it, and of equal ones that which replaces the others. A
// run that another of them was a part of did not make it once more. Only entries
// of one namespace stand for each other, as a key that is trusted in one must not
// decide what another says. Of entries that name no run, named holds the entry
// that says which one they are about.
func (w *walker) runs(made []int64) (standing []int64, named map[int64]int64, err error) {
	if len(made) < 2 {
		return made, nil, nil
	}
	type id struct{ name, namespace string }
	runs, attests, parents := map[id][]int64{}, map[id]int64{}, map[id]id{}
	unnamed := map[int64]id{} // by predicate
	for _, entry := range made {
		step, err := w.g.Step(w.ctx, entry)
		if err != nil {
			return nil, nil, err
		}
		grade, err := w.grade(entry)
		if err != nil {
			return nil, nil, err
		}
		of := func(name string) id { return id{name, grade.Namespace} }
		if step.Run == "" {
			unnamed[entry] = of(string(step.Predicate))
			continue
		}
		run := of(step.Run)
		runs[run] = append(runs[run], entry)
		for _, k := range step.AttestedBy {
			attests[of(string(k))] = entry
		}
		if step.Parent != "" {
			parents[run] = of(step.Parent)
		}
	}
	named = map[int64]int64{}
	for entry, predicate := range unnamed {
		by, ok := attests[predicate]
		if !ok {
			continue
		}
		step, err := w.g.Step(w.ctx, by)
		if err != nil {
			return nil, nil, err
		}
		run := id{step.Run, predicate.namespace}
		named[entry] = by
		runs[run] = append(runs[run], entry)
	}
	over, best := map[int64]bool{}, map[id]Evidence{}
	for run, entries := range runs {
		evidence, err := w.outdone(entries, over)
		if err != nil {
			return nil, nil, err
		}
		best[run] = evidence
	}
	for run, parent := range parents {
		if whole, ok := best[parent]; ok && parent != run && !whole.Better(best[run]) {
			for _, entry := range runs[parent] {
				over[entry] = true
			}
		}
	}
	standing = slices.DeleteFunc(slices.Clone(made), func(entry int64) bool { return over[entry] })
	if len(standing) == 0 { // runs that say they are parts of each other
		return made, named, nil
	}
	return standing, named, nil
}

// outdone notes those of the entries about one run that others stand for, and
// returns the best evidence of it.
func (w *walker) outdone(entries []int64, over map[int64]bool) (Evidence, error) {
	best, grades := Claimed, make([]Evidence, len(entries))
	for i, entry := range entries {
		grade, err := w.grade(entry)
		if err != nil {
			return "", err
		}
		if grades[i] = grade.Evidence; grades[i].Better(best) {
			best = grades[i]
		}
	}
	steps, replaced := make([]*Step, len(entries)), map[Key]bool{}
	for i, entry := range entries {
		step, err := w.g.Step(w.ctx, entry)
		if err != nil {
			return "", err
		}
		if steps[i] = step; grades[i] == best && step.Replaces != "" {
			replaced[step.Replaces] = true
		}
	}
	for i, entry := range entries {
		over[entry] = grades[i] != best || replaced[steps[i].Subject]
	}
	return best, nil
}

// stands says whether an entry counts among those whose steps made k.
func (w *walker) stands(k Key, entry int64) (bool, error) {
	entries, ok := w.standing[k]
	if !ok {
		node, err := w.g.Node(w.ctx, k, Upstream)
		if err != nil {
			return false, err
		}
		made := w.visible(node.Made)
		if len(made) < 2 {
			return true, nil
		}
		if entries, _, err = w.runs(made); err != nil {
			return false, err
		}
		if w.standing == nil {
			w.standing = map[Key][]int64{}
		}
		w.standing[k] = entries
	}
	_, found := slices.BinarySearch(entries, entry)
	return found, nil
}

// vouched leaves out the claimed ones of several steps with one run ID if there
// are better ones: anybody can claim a step under the ID of somebody's run.
func (w *walker) vouched(entries []int64) ([]int64, error) {
	if len(entries) < 2 {
		return entries, nil
	}
	var better []int64
	for _, entry := range entries {
		grade, err := w.grade(entry)
		if err != nil {
			return nil, err
		}
		if grade.Evidence.Trusted() {
			better = append(better, entry)
		}
	}
	if len(better) == 0 {
		return entries, nil
	}
	return better, nil
}

// follows says whether a relation leads upstream.
func (w *walker) follows(r Relation) (bool, error) {
	switch r.Kind {
	case RelBase, RelBuiltOf, RelPlatform, RelInIndex, RelConfigOf, RelAlias, RelLocated, RelHolds, RelRuns, RelServes, RelApplied, RelPins, RelRefers, RelRestored:
		return true, nil
	case RelPartOf:
		member, err := w.g.Node(w.ctx, r.To, Upstream)
		if err != nil {
			return false, err
		}
		made := w.visible(member.Made)
		if len(made) == 0 {
			return false, nil
		}
		w.touch(made[0])
		return true, nil
	}
	return false, nil
}

func (w *walker) touch(entry int64) {
	if w.opt.Touched != nil {
		w.opt.Touched(entry)
	}
}

// deeper visits at once what was pushed since the queue had so many, if the walk
// goes depth first.
func (w *walker) deeper(since int, yield func(Edge, error) bool) error {
	for w.opt.DepthFirst && len(w.queue) > since {
		last := len(w.queue) - 1
		next := w.queue[last]
		w.queue = w.queue[:last]
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.visit(next, yield); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) down(q queued, node *Node, yield func(Edge, error) bool) error {
	waiting := len(w.queue)
	for _, entry := range w.visible(node.Used) {
		step, err := w.g.Step(w.ctx, entry)
		if err != nil {
			return err
		}
		for _, u := range step.Uses {
			if u.Key != q.Key || (q.Run != "" && u.Producer != "" && u.Producer != q.Run) {
				continue
			}
			for _, o := range step.results() {
				if ok, err := w.stands(o.Key, entry); err != nil || !ok {
					if err != nil {
						return err
					}
					continue
				}
				e := Edge{From: o.Key, To: q.Key, Step: entry, Relation: RelUsed, Role: u.Role, Path: u.Path, Entry: entry, Depth: q.depth}
				if err := w.emitOnce(e, false, yield); err != nil {
					return err
				}
				if o.Key != q.Key {
					w.push(Start{o.Key, step.Run}, q.depth+1)
				}
			}
		}
		if err := w.deeper(waiting, yield); err != nil {
			return err
		}
	}
	for _, r := range node.Down {
		if w.opt.Size > 0 && r.Entry >= w.opt.Size {
			break
		}
		switch r.Kind {
		case RelParent, RelTree:
			continue
		case RelLayersOf:
			if err := w.builtOn(q, r.From, yield); err != nil {
				return err
			}
			continue
		}
		e := Edge{From: r.From, To: r.To, Step: -1, Relation: r.Kind, Entry: r.Entry, Depth: q.depth}
		if err := w.emitOnce(e, r.Claimed, yield); err != nil {
			return err
		}
		if r.Kind != RelRefers {
			w.push(Start{Key: r.From}, q.depth+1)
		}
		if err := w.deeper(waiting, yield); err != nil {
			return err
		}
	}
	return nil
}

// results are what a step left behind: its outputs, or the run itself where it
// has none.
func (s *Step) results() []Output {
	if len(s.Generates) == 0 && s.Subject != "" {
		return []Output{{Key: s.Subject, Name: runPrefix + s.Run}}
	}
	return s.Generates
}

// emitOnce is emit for an edge that was not yielded before.
func (w *walker) emitOnce(e Edge, claimed bool, yield func(Edge, error) bool) error {
	if w.opt.DepthFirst {
		return w.emit(&e, claimed, yield)
	}
	id := edgeID{e.From, e.To, e.Step, e.Entry, e.Relation, e.Role, e.Path}
	if w.emitted[id] {
		return nil
	}
	if w.emitted == nil {
		w.emitted = map[edgeID]bool{}
	}
	w.emitted[id] = true
	return w.emit(&e, claimed, yield)
}

// emit yields an edge with its evidence: that of its entry, or claimed where
// it rests on a label.
func (w *walker) emit(e *Edge, claimed bool, yield func(Edge, error) bool) error {
	w.touch(e.Entry)
	e.Evidence = Claimed
	if !claimed {
		grade, err := w.grade(e.Entry)
		if err != nil {
			return err
		}
		e.Evidence = grade.Evidence
	}
	if !yield(*e, nil) {
		return errStop
	}
	return nil
}

func (w *walker) grade(entry int64) (Grade, error) {
	if entry != w.lastEntry {
		grade, err := w.g.Grade(w.ctx, entry)
		if err != nil {
			return Grade{}, err
		}
		w.lastEntry, w.lastGrade = entry, grade
	}
	return w.lastGrade, nil
}

// FactGraph is a Graph over facts in memory.
type FactGraph struct {
	nodes  map[Key]*Node
	steps  map[int64]*Step
	grades map[int64]Grade
}

// NewFactGraph returns an empty graph.
func NewFactGraph() *FactGraph {
	return &FactGraph{nodes: map[Key]*Node{}, steps: map[int64]*Step{}, grades: map[int64]Grade{}}
}

// Add adds what the entry at index states. Entries are added in ascending
// order.
func (g *FactGraph) Add(index int64, f *Facts, grade Grade) {
	g.grades[index] = grade
	if f.Step != nil {
		g.steps[index] = f.Step
	}
	f.Visit(
		func(k Key) { n := g.node(k); n.Made = appendOnce(n.Made, index) },
		func(k Key) { n := g.node(k); n.Used = appendOnce(n.Used, index) },
		func(r Relation) {
			from, to := g.node(r.From), g.node(r.To)
			from.Up = append(from.Up, EntryRelation{r, index})
			to.Down = append(to.Down, EntryRelation{r, index})
		})
}

// Visit calls made for every resource that the facts say was generated, used
// for every one that was used, and related for every relation, in the order
// stated. It is how every index of facts is built.
func (f *Facts) Visit(made, used func(Key), related func(Relation)) {
	if f.Step != nil {
		if f.Step.Subject != "" {
			made(f.Step.Subject)
		}
		for _, o := range f.Step.Generates {
			made(o.Key)
		}
		for _, u := range f.Step.Uses {
			used(u.Key)
		}
	}
	for _, r := range f.Relations {
		related(r)
	}
}

func appendOnce(s []int64, v int64) []int64 {
	if n := len(s); n > 0 && s[n-1] == v {
		return s
	}
	return append(s, v)
}

func (g *FactGraph) node(k Key) *Node {
	n, ok := g.nodes[k]
	if !ok {
		n = new(Node)
		g.nodes[k] = n
	}
	return n
}

// Node implements Graph.
func (g *FactGraph) Node(_ context.Context, k Key, _ Direction) (*Node, error) {
	if n, ok := g.nodes[k]; ok {
		return n, nil
	}
	return new(Node), nil
}

// Step implements Graph.
func (g *FactGraph) Step(_ context.Context, entry int64) (*Step, error) {
	if s, ok := g.steps[entry]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("entry %d states no step", entry)
}

// Grade implements Graph.
func (g *FactGraph) Grade(_ context.Context, entry int64) (Grade, error) {
	if e, ok := g.grades[entry]; ok {
		return e, nil
	}
	return Grade{}, fmt.Errorf("entry %d was not graded", entry)
}
