package picture

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// TreeOptions changes how a tree looks. The zero value is plain ASCII without
// colour, each line as long as it needs to be.
type TreeOptions struct {
	Color   bool
	Unicode bool
	Width   int  // columns that lines are cut to; 0 for no limit
	All     bool // also the tools that steps ran
}

// treeDepth is how many levels a tree is drawn; what lies deeper is named and
// left to another question.
const treeDepth = 100

// Tree draws l as a tree: below each resource the steps that made it, or below
// each the steps that used it downstream, below each step what it used or
// made. What was shown is referred to, so that each resource and step is
// unfolded once.
func Tree(w io.Writer, l *lineage.Lineage, opt TreeOptions) error {
	t := &tree{
		index: newIndex(l), opt: opt, out: bufio.NewWriter(w), down: l.Direction == schema.Downstream,
		branches: map[schema.Key][]branch{}, uses: map[int64][]schema.Edge{}, shown: map[string]bool{},
	}
	t.glyphs()
	t.plant()
	root := l.Ref.Start.Key
	if root == "" {
		t.line("", t.seg(bold, rootName(l)), t.seg(dim, "an entry about no resource"))
		return t.out.Flush()
	}
	name := rootName(l)
	segs := []segment{t.flex(bold, name)}
	if own := t.name(root); own != "" && own != name {
		segs = append(segs, t.seg(plain, own))
	}
	t.line("", append(segs, t.resourceEnd(root, nil)...)...)
	t.shown[string(root)] = true
	t.resource(root, "", 0)
	t.foot()
	return t.out.Flush()
}

// branch is what hangs below a resource: a step, or a relation without one.
type branch struct {
	step  int64 // entry; -1 for a relation
	edges []schema.Edge
}

type tree struct {
	*index
	opt      TreeOptions
	out      *bufio.Writer
	down     bool
	branches map[schema.Key][]branch
	uses     map[int64][]schema.Edge // of each step, in the order shown
	shown    map[string]bool         // keys of resources and ids of steps

	tee, elbow, bar, dots, up, cross, warn, dot string
}

func (t *tree) glyphs() {
	t.tee, t.elbow, t.bar, t.dots, t.up, t.cross, t.warn, t.dot = "|- ", "`- ", "|  ", "...", "(shown above)", "x", "!", ", "
	if t.opt.Unicode {
		t.tee, t.elbow, t.bar, t.dots, t.up, t.cross, t.warn, t.dot = "├─ ", "└─ ", "│  ", "…", "↑ shown above", "✗", "⚠", " · "
	}
}

// plant sorts the edges under the resource that they hang below.
func (t *tree) plant() {
	seenUse := map[string]bool{}
	for _, e := range t.l.Edges {
		above, below := e.From, e.To
		if t.down {
			above, below = e.To, e.From
		}
		if e.Relation == schema.RelAlias && (t.folded[e.From] || t.folded[e.To]) {
			continue // said on the line of the resource itself
		}
		bs := t.branches[above]
		i := slices.IndexFunc(bs, func(b branch) bool {
			return b.step == e.Step && (e.Step >= 0 || b.edges[0].Relation == e.Relation && sameEnd(b.edges[0], below, t.down))
		})
		if i < 0 {
			t.branches[above] = append(bs, branch{e.Step, []schema.Edge{e}})
		} else {
			bs[i].edges = append(bs[i].edges, e)
		}
		id := fmt.Sprint(e.Step, e.To, e.Role, e.Path)
		if e.Step >= 0 && !seenUse[id] {
			seenUse[id] = true
			t.uses[e.Step] = append(t.uses[e.Step], e)
		}
	}
	for _, s := range t.l.Steps {
		for _, k := range t.madeWithoutUse(s) {
			t.branches[k] = append(t.branches[k], branch{step: s.Entry})
		}
	}
	for _, uses := range t.uses {
		slices.SortStableFunc(uses, func(a, b schema.Edge) int { return cmp.Compare(roleOrder(a.Role), roleOrder(b.Role)) })
	}
}

func sameEnd(e schema.Edge, below schema.Key, down bool) bool {
	if down {
		return e.From == below
	}
	return e.To == below
}

// roleOrder puts what has nothing below it, mostly, before the inputs.
func roleOrder(role string) int {
	order := []string{schema.RoleTool, schema.RoleCode, schema.RoleChanges, schema.RoleImage, schema.RoleParams}
	if i := slices.Index(order, role); i >= 0 {
		return i
	}
	return len(order)
}

// resource draws what hangs below k.
func (t *tree) resource(k schema.Key, prefix string, depth int) {
	bs := t.branches[k]
	if depth >= treeDepth && len(bs) > 0 {
		t.line(prefix+t.elbow, t.seg(dim, t.dots+" deeper than this tree is drawn: ask for "+printable(k.Short())))
		return
	}
	steps := 0
	for _, b := range bs {
		if b.step >= 0 {
			steps++
		}
	}
	for i, b := range bs {
		head, next := t.forks(prefix, i == len(bs)-1)
		if b.step >= 0 {
			t.step(b, head, next, depth, steps)
			continue
		}
		e := b.edges[0]
		end := e.To
		if t.down {
			end = e.From
		}
		word := relationUp(e.Relation)
		if t.down {
			word = relationDown(e.Relation)
		}
		t.leaf(end, word, len(word), e.Path, e.Evidence, head, next, depth)
	}
}

// forks are the beginnings of a branch's own line and of those below it.
func (t *tree) forks(prefix string, last bool) (head, next string) {
	if last {
		return prefix + t.elbow, prefix + "   "
	}
	return prefix + t.tee, prefix + t.bar
}

// step draws one step and what it used or, downstream, made.
func (t *tree) step(b branch, head, next string, depth, siblings int) {
	info, ok := t.steps[b.step]
	if !ok {
		return
	}
	segs := []segment{t.flex(cyan, stepTitle(info.Step)), t.seg(dim, strings.Join(facts(info, true), t.dot))}
	if failed(info.Step) {
		segs = append(segs, t.seg(red, t.cross+" failed"))
	}
	if claimed(info.Evidence) {
		segs = append(segs, t.seg(yellow, "? claimed only"))
	}
	if !t.down && siblings > 1 && len(b.edges) > 0 && b.edges[0].Ambiguous {
		segs = append(segs, t.seg(yellow, fmt.Sprintf("? one of %d recorded producers", siblings)))
	}
	var gaps []string
	for _, g := range info.Step.Gaps {
		if rule := printable(g.Rule); !slices.Contains(gaps, rule) {
			gaps = append(gaps, rule)
		}
	}
	if len(gaps) > 0 {
		segs = append(segs, t.seg(yellow, t.warn+" "+strings.Join(gaps, ", ")))
	}
	if t.down {
		segs = append(segs, t.seg(dim, "used it as "+usedAs(b.edges)))
	}
	edges := t.below(b)
	id := stepID(b.step)
	again := t.shown[id]
	t.shown[id] = true
	if again && !t.down && len(edges) > 0 {
		t.line(head, append(segs, t.seg(dim, t.up))...)
		return
	}
	t.line(head, segs...)
	if !again {
		t.values(info.Step, next, len(edges) > 0)
	}
	width := 0
	for _, e := range edges {
		width = max(width, len(t.word(e)))
	}
	for i, e := range edges {
		end := e.To
		if t.down {
			end = e.From
		}
		h, n := t.forks(next, i == len(edges)-1)
		t.leaf(end, t.word(e), width, e.Path, e.Evidence, h, n, depth)
	}
}

// values are the parameters and metrics of a step, a line each.
func (t *tree) values(s *schema.Step, prefix string, more bool) {
	fork := "   "
	if more {
		fork = t.bar
	}
	for _, v := range []struct {
		what string
		list []string
	}{{"parameters", pairs(s.Parameters)}, {"metrics", pairs(s.Metrics)}} {
		const most = 8
		if n := len(v.list); n > most {
			v.list = append(v.list[:most:most], fmt.Sprintf("and %d more", n-most))
		}
		if len(v.list) > 0 {
			t.line(prefix+fork, t.seg(dim, v.what), t.flex(plain, strings.Join(v.list, "  ")))
		}
	}
}

// word is what stands before a thing below a step.
func (t *tree) word(e schema.Edge) string {
	if t.down {
		return "made"
	}
	if e.Role == "" {
		return schema.RoleInput
	}
	return printable(e.Role)
}

// below are the edges to draw under a step: its uses but the folded tools or,
// downstream, one for each thing that it made.
func (t *tree) below(b branch) []schema.Edge {
	var out []schema.Edge
	if t.down {
		for _, e := range b.edges {
			if !slices.ContainsFunc(out, func(o schema.Edge) bool { return o.From == e.From }) {
				out = append(out, e)
			}
		}
		return out
	}
	for _, e := range t.uses[b.step] {
		if t.opt.All || !t.folded[e.To] {
			out = append(out, e)
		}
	}
	return out
}

func usedAs(edges []schema.Edge) string {
	var out []string
	for _, e := range edges {
		as := printable(e.Role)
		if e.Path != "" {
			as = strings.TrimSpace(as + " " + printable(e.Path))
		}
		if !slices.Contains(out, as) {
			out = append(out, as)
		}
	}
	return strings.Join(out, ", ")
}

// leaf draws a resource below a step or a relation, and what hangs below it.
func (t *tree) leaf(k schema.Key, word string, wordWidth int, path string, evidence schema.Evidence, head, next string, depth int) {
	name := printable(path)
	if name == "" || t.down {
		name = t.name(k)
	}
	segs := []segment{t.seg(plain, fmt.Sprintf("%-*s", wordWidth, word))}
	if name != "" {
		segs = append(segs, t.flex(bold, name))
	}
	segs = append(segs, t.resourceEnd(k, &evidence)...)
	seen := t.shown[string(k)]
	t.shown[string(k)] = true
	if seen && len(t.branches[k]) > 0 {
		segs = append(segs, t.seg(dim, t.up))
	}
	t.line(head, segs...)
	if !seen {
		t.resource(k, next, depth+1)
	}
}

// resourceEnd is the end of a resource's line: digest and marks. A nil
// evidence is that of the root, which needs none.
func (t *tree) resourceEnd(k schema.Key, evidence *schema.Evidence) []segment {
	var segs []segment
	switch {
	case k.Digested():
		segs = append(segs, t.seg(dim, printable(k.Short())))
	default:
		if t.name(k) != printable(k.Hex()) {
			segs = append(segs, t.seg(dim, printable(k.Hex())))
		}
		if !t.held[k] {
			segs = append(segs, t.seg(yellow, t.warn+" no digest"))
		}
	}
	if len(t.l.Holes[k]) > 0 {
		segs = append(segs, t.seg(yellow, t.warn+" erased in part"))
	}
	for _, a := range t.aliases[k] {
		if t.folded[a] {
			segs = append(segs, t.seg(dim, "= "+printable(a.Short())))
		}
	}
	if evidence != nil && claimed(*evidence) {
		segs = append(segs, t.seg(yellow, "? claimed"))
	}
	return segs
}

func (t *tree) foot() {
	t.out.WriteByte('\n')
	t.line("", t.seg(dim, fmt.Sprintf("%s, %s; %s", count(len(t.l.Resources), "resource"), count(len(t.l.Steps), "step"), speaksFor(t.l))))
	hidden := map[schema.Key]bool{}
	for _, us := range t.tools {
		for _, u := range us {
			hidden[u.Key] = true
		}
	}
	if len(hidden) > 0 && !t.opt.All && !t.down {
		t.line("", t.seg(dim, "not shown: "+count(len(hidden), "tool")+" that the steps ran"))
	}
	for _, e := range t.l.Vouched {
		t.line("", t.seg(bold, "vouched for: "), t.flex(plain, e.Summary), t.seg(dim, fmt.Sprintf("#%d%s%s", e.Index, t.dot, e.Evidence)))
	}
	for _, r := range t.l.Retracted {
		t.line("", t.seg(yellow, fmt.Sprintf("%s withdrawn: #%d by #%d", t.warn, r.Entry, r.By)), t.flex(plain, r.Reason))
	}
	if t.l.Truncated {
		t.line("", t.seg(yellow, "there is more: the answer was cut off at its limit"))
	}
}

// relationUp says what the lower resource is to the one above it, upstream.
func relationUp(relation string) string {
	switch relation {
	case schema.RelBase:
		return "base image"
	case schema.RelBuiltOf:
		return "built of"
	case schema.RelPlatform:
		return "holds platform"
	case schema.RelPartOf:
		return "holds file"
	case schema.RelInIndex:
		return "in index"
	case schema.RelConfigOf:
		return "config of"
	case schema.RelApplied:
		return "applied from"
	case schema.RelRefers:
		return "refers to"
	case schema.RelLocated:
		return "was at"
	case schema.RelRestored:
		return "restored from"
	case schema.RelAlias:
		return "same bytes as"
	}
	return printable(relation)
}

// relationDown says the same where the lower one is made from the upper.
func relationDown(relation string) string {
	switch relation {
	case schema.RelBase:
		return "base of"
	case schema.RelBuiltOf:
		return "built into"
	case schema.RelPlatform:
		return "platform of"
	case schema.RelPartOf:
		return "part of"
	case schema.RelInIndex:
		return "index of"
	case schema.RelConfigOf:
		return "has config"
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
		return "held"
	case schema.RelRestored:
		return "restored to"
	case schema.RelHolds:
		return "was at"
	case schema.RelAlias:
		return "same bytes as"
	}
	return printable(relation)
}

// style is how a segment looks on a terminal: a parameter of SGR (ECMA-48,
// 8.3.117).
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	yellow style = "33"
	cyan   style = "36"
)

// segment is a part of a line.
type segment struct {
	style style
	text  string
	flex  bool // is shortened first
}

func (t *tree) seg(s style, text string) segment  { return segment{s, text, false} }
func (t *tree) flex(s style, text string) segment { return segment{s, text, true} }

// least is what a name or a command is not shortened below.
const least = 16

// line writes one line, cut to the width.
func (t *tree) line(prefix string, segs ...segment) {
	total := utf8.RuneCountInString(prefix) - 2
	for _, s := range segs {
		total += utf8.RuneCountInString(s.text) + 2
	}
	over := total - t.opt.Width
	room := t.opt.Width - utf8.RuneCountInString(prefix)
	t.paint(dim, prefix)
	for i, s := range segs {
		n := utf8.RuneCountInString(s.text)
		if t.opt.Width > 0 && over > 0 && s.flex && n > least {
			s.text = clip(s.text, max(least, n-over), t.dots)
			over -= n - utf8.RuneCountInString(s.text)
		}
		if i > 0 {
			s.text = "  " + s.text
		}
		if t.opt.Width > 0 {
			s.text = clipEnd(s.text, room, t.dots)
			room -= utf8.RuneCountInString(s.text)
		}
		t.paint(s.style, s.text)
		if t.opt.Width > 0 && room <= 0 {
			break
		}
	}
	t.out.WriteByte('\n')
}

func (t *tree) paint(s style, text string) {
	if t.opt.Color && s != plain && text != "" {
		fmt.Fprintf(t.out, "\x1b[%sm%s\x1b[0m", s, text)
		return
	}
	t.out.WriteString(text)
}
