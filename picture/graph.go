package picture

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// graph is what all drawings but the tree draw.
type graph struct {
	title string
	notes []string // what the picture speaks for
	nodes []node   // resources in the lineage's order, then steps
	edges []edge
}

// node is a box.
type node struct {
	id      string // "r0", "s12": of the place in the lineage, or the entry
	step    bool
	kind    string // of a resource
	name    string // first line
	detail  string // second line
	tooltip string // all of it, unshortened
	root    bool
	failed  bool // step
	warning bool // has no digest, or gaps
}

// edge is an arrow from what was there first to what was made of it.
type edge struct {
	from, to string // ids of nodes
	label    string
	tooltip  string
	claimed  bool
}

// index is a lineage with what is asked of it again and again.
type index struct {
	l         *lineage.Lineage
	resources map[schema.Key]schema.Resource
	steps     map[int64]lineage.StepInfo
	paths     map[schema.Key]string       // where a resource without a name was used or made
	held      map[schema.Key]bool         // locations whose bytes are known
	folded    map[schema.Key]bool         // not a box of its own
	tools     map[int64][]schema.Use      // of each step, those that are folded
	aliases   map[schema.Key][]schema.Key // other digests of the same bytes
}

func newIndex(l *lineage.Lineage) *index {
	x := &index{
		l: l, resources: map[schema.Key]schema.Resource{}, steps: map[int64]lineage.StepInfo{}, paths: map[schema.Key]string{},
		held: map[schema.Key]bool{}, folded: map[schema.Key]bool{}, tools: map[int64][]schema.Use{}, aliases: map[schema.Key][]schema.Key{},
	}
	for _, r := range l.Resources {
		x.resources[r.Key] = r
	}
	for _, s := range l.Steps {
		x.steps[s.Entry] = s
		for _, u := range s.Step.Uses {
			x.pathOf(u.Key, u.Path, u.Name)
		}
		for _, o := range s.Step.Generates {
			x.pathOf(o.Key, o.Path, o.Name)
		}
	}
	x.fold()
	return x
}

func (x *index) pathOf(k schema.Key, names ...string) {
	for _, n := range names {
		if x.paths[k] == "" {
			x.paths[k] = printable(n)
		}
	}
}

// fold finds the resources that would only clutter: tools that nothing is
// known of but that steps ran them, and digests that are aliases only.
func (x *index) fold() {
	other := map[schema.Key]bool{x.l.Ref.Start.Key: true}
	for _, e := range x.l.Edges {
		if e.Relation == schema.RelHolds {
			x.held[e.From] = true
		}
		switch {
		case e.Relation == schema.RelAlias:
			if !slices.Contains(x.aliases[e.To], e.From) {
				x.aliases[e.To] = append(x.aliases[e.To], e.From)
			}
		case e.Relation == schema.RelUsed && e.Role == schema.RoleTool:
			other[e.From] = true
		default:
			other[e.From], other[e.To] = true, true
		}
	}
	for _, r := range x.l.Resources {
		x.folded[r.Key] = !other[r.Key]
	}
	for _, e := range x.l.Edges {
		if e.Role == schema.RoleTool && x.folded[e.To] {
			u := schema.Use{Key: e.To, Role: e.Role, Path: e.Path, Name: x.name(e.To)}
			if !slices.Contains(x.tools[e.Step], u) {
				x.tools[e.Step] = append(x.tools[e.Step], u)
			}
		}
	}
}

// name is what people call the resource with key k.
func (x *index) name(k schema.Key) string {
	if n := resourceName(x.resources[k]); n != "" {
		return n
	}
	return x.paths[k]
}

func (x *index) kind(k schema.Key) string {
	if kind := x.resources[k].Kind; kind != "" {
		return printable(kind)
	}
	return "resource"
}

// claimed says whether a step is known by claim only.
func claimed(e schema.Evidence) bool { return e == schema.Claimed }

// newGraph turns a lineage into boxes and arrows.
func newGraph(l *lineage.Lineage) *graph {
	x := newIndex(l)
	g := &graph{title: question(l), notes: []string{
		fmt.Sprintf("%s and %s; %s.", count(len(l.Resources), "resource"), count(len(l.Steps), "step"), speaksFor(l)),
	}}
	if l.Truncated {
		g.notes = append(g.notes, "There is more: the answer was cut off at its limit.")
	}
	ids := map[schema.Key]string{}
	for i, r := range l.Resources {
		if x.folded[r.Key] {
			continue
		}
		ids[r.Key] = fmt.Sprintf("r%d", i)
		g.nodes = append(g.nodes, x.resourceNode(ids[r.Key], r, i == 0))
	}
	for _, s := range l.Steps {
		g.nodes = append(g.nodes, x.stepNode(s))
	}
	g.edges = x.edges(ids)
	return g
}

func (x *index) resourceNode(id string, r schema.Resource, root bool) node {
	n := node{id: id, kind: x.kind(r.Key), name: x.name(r.Key), root: root, warning: !r.Key.Digested() && !x.held[r.Key]}
	if root && x.l.Ref.Name != "" {
		n.name = rootName(x.l)
	}
	if n.name == "" {
		n.name = n.kind
	}
	n.detail = n.kind + " · " + printable(r.Key.Short())
	if n.warning {
		n.detail = n.kind + " · no digest"
	}
	if len(x.l.Holes[r.Key]) > 0 {
		n.warning = true
		n.detail += " · erased in part"
	}
	lines := []string{n.name, "kind: " + n.kind, printable(string(r.Key))}
	for _, k := range x.aliases[r.Key] {
		lines = append(lines, printable(string(k)))
	}
	if r.Name != "" && printable(r.Name) != n.name {
		lines = append(lines, printable(r.Name))
	}
	if r.URI != "" {
		lines = append(lines, printable(r.URI))
	}
	if r.Size >= 0 && r.Key.Digested() {
		lines = append(lines, count(int(r.Size), "byte"))
	}
	n.tooltip = strings.Join(lines, "\n")
	return n
}

func stepID(entry int64) string { return fmt.Sprintf("s%d", entry) }

func (x *index) stepNode(info lineage.StepInfo) node {
	s := info.Step
	n := node{id: stepID(info.Entry), step: true, name: stepTitle(s), failed: failed(s), warning: len(s.Gaps) > 0}
	n.detail = strings.Join(facts(info, false), " · ")
	lines := []string{n.name}
	if len(s.Argv) > 0 {
		lines = append(lines, "command: "+printable(strings.Join(s.Argv, " ")))
	}
	lines = append(lines, strings.Join(facts(info, true), ", "))
	add := func(what string, values []string) {
		if len(values) > 0 {
			lines = append(lines, what+": "+strings.Join(values, ", "))
		}
	}
	add("parameters", pairs(s.Parameters))
	add("metrics", pairs(s.Metrics))
	for _, u := range x.tools[info.Entry] {
		add("tool", []string{strings.TrimSpace(u.Name + " " + printable(string(u.Key)))})
	}
	for _, g := range s.Gaps {
		add("gap", []string{strings.TrimSpace(printable(g.Rule) + " " + printable(g.Detail))})
	}
	if s.Run != "" {
		add("run", []string{printable(s.Run)})
	}
	n.tooltip = strings.Join(lines, "\n")
	return n
}

// facts are what is said of a step beside its command: its entry, how it
// ended, how long it took and, in the long form, how we know and when it began.
func facts(info lineage.StepInfo, long bool) []string {
	s := info.Step
	out := []string{fmt.Sprintf("#%d", info.Entry)}
	for _, f := range []string{exitOf(s), took(s)} {
		if f != "" {
			out = append(out, f)
		}
	}
	if long || claimed(info.Evidence) {
		out = append(out, string(info.Evidence))
	}
	if t := when(s); long && !t.IsZero() {
		out = append(out, stamp(t))
	}
	return out
}

// edges are the arrows: from what was used to the step, from the step to what
// it made, and between resources where no step is known.
func (x *index) edges(ids map[schema.Key]string) []edge {
	var out []edge
	at := map[[3]string]int{}
	add := func(e edge, kind string) {
		id := [3]string{e.from, e.to, kind}
		i, ok := at[id]
		if !ok {
			at[id] = len(out)
			out = append(out, e)
			return
		}
		have := &out[i]
		if e.label != "" && !slices.Contains(strings.Split(have.label, ", "), e.label) {
			have.label += ", " + e.label
		}
		if e.tooltip != "" && !slices.Contains(strings.Split(have.tooltip, "\n"), e.tooltip) {
			have.tooltip += "\n" + e.tooltip
		}
		have.claimed = have.claimed && e.claimed
	}
	for _, e := range x.l.Edges {
		from, to := ids[e.From], ids[e.To]
		tip := strings.TrimSpace(fmt.Sprintf("%s by entry %d", e.Evidence, e.Entry))
		switch {
		case e.Step < 0 && from != "" && to != "":
			if e.Relation == schema.RelAlias && from < to {
				continue // stated in both directions
			}
			add(edge{from: to, to: from, label: relationWord(e.Relation), tooltip: tip, claimed: claimed(e.Evidence)}, e.Relation)
		case e.Step >= 0:
			step := stepID(e.Step)
			if to != "" {
				role := printable(e.Role)
				if e.Path != "" {
					tip = printable(e.Path) + ", " + tip
				}
				add(edge{from: to, to: step, label: role, tooltip: role + " " + tip, claimed: claimed(e.Evidence)}, "use")
			}
			if from != "" {
				add(edge{from: step, to: from, tooltip: "made, " + fmt.Sprintf("%s by entry %d", e.Evidence, e.Entry), claimed: claimed(e.Evidence)}, "made")
			}
		}
	}
	for _, s := range x.l.Steps {
		for _, k := range x.madeWithoutUse(s) {
			add(edge{from: stepID(s.Entry), to: ids[k], tooltip: fmt.Sprintf("made, %s by entry %d", s.Evidence, s.Entry), claimed: claimed(s.Evidence)}, "made")
		}
	}
	return out
}

// madeWithoutUse are the resources of the picture that a step made which used
// nothing, so that no edge says so.
func (x *index) madeWithoutUse(s lineage.StepInfo) []schema.Key {
	if len(s.Step.Uses) > 0 {
		return nil
	}
	var out []schema.Key
	for _, o := range append([]schema.Output{{Key: s.Step.Subject}}, s.Step.Generates...) {
		if _, ok := x.resources[o.Key]; ok && !x.folded[o.Key] {
			out = append(out, o.Key)
		}
	}
	return out
}

// relationWord is what stands beside an arrow between two resources.
func relationWord(relation string) string {
	switch relation {
	case schema.RelBase:
		return "base of"
	case schema.RelBuiltOf:
		return "source of"
	case schema.RelPlatform:
		return "platform of"
	case schema.RelPartOf:
		return "part of"
	case schema.RelInIndex:
		return "index of"
	case schema.RelConfigOf:
		return "image of"
	case schema.RelRuns:
		return "run by"
	case schema.RelServes:
		return "served by"
	case schema.RelApplied:
		return "applied as"
	case schema.RelPins:
		return "pinned by"
	case schema.RelRefers:
		return "named by"
	case schema.RelLocated:
		return "location of"
	case schema.RelRestored:
		return "restored to"
	case schema.RelHolds:
		return "held by"
	case schema.RelAlias:
		return "same bytes"
	}
	return printable(relation)
}
