package picture

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode"

	"github.com/retrace-ledger/retrace/lineage"
)

// Limits of an SVG picture. Beyond them the layout takes minutes and nobody
// can read it.
const (
	MaxNodes = 600
	MaxEdges = 2000
)

// TooLargeError says that a lineage has more boxes or arrows than a picture
// can show.
type TooLargeError struct{ Nodes, Edges int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the picture would have %d boxes and %d arrows; the limit is %d and %d: ask for fewer levels with --depth, or for DOT and draw it with another program", e.Nodes, e.Edges, MaxNodes, MaxEdges)
}

// SVG draws l as a layered graph from left to right. The file stands alone:
// no scripts, no fonts, no references. It is a *TooLargeError if there is more
// than a picture can show.
func SVG(w io.Writer, l *lineage.Lineage) error {
	g := newGraph(l)
	if len(g.nodes) > MaxNodes || len(g.edges) > MaxEdges {
		return &TooLargeError{len(g.nodes), len(g.edges)}
	}
	var in layoutInput
	boxes := make([]box, len(g.nodes))
	for i, n := range g.nodes {
		boxes[i] = newBox(n)
		in.Nodes = append(in.Nodes, layoutNode{n.id, boxes[i].w, boxes[i].h})
	}
	for _, e := range g.edges {
		le := layoutEdge{From: e.from, To: e.to}
		if e.label != "" {
			le.Width, le.Height = textWidth(label(e), smallSize)+10, 16
		}
		in.Edges = append(in.Edges, le)
	}
	where, err := place(in)
	if err != nil {
		return err
	}
	d := &drawing{out: bufio.NewWriter(w), g: g}
	d.draw(where, boxes)
	return d.out.Flush()
}

// Sizes, in user units, which are pixels of a screen.
const (
	margin    = 28.0
	nameSize  = 13.0
	smallSize = 11.0
	titleSize = 19.0
	boxHeight = 50.0
	boxPad    = 16.0
	nameChars = 34
)

// box is the size of a node, and its lines as they fit.
type box struct {
	w, h         float64
	name, detail string
}

func newBox(n node) box {
	b := box{h: boxHeight, name: clip(n.name, nameChars, "…"), detail: clip(n.detail, nameChars+6, "…")}
	b.w = max(textWidth(b.name, nameSize)*1.1, textWidth(b.detail, smallSize)) + 2*boxPad
	if n.step {
		b.w += 2 * chevron
	}
	if n.warning || n.failed {
		b.w += 16
	}
	return b
}

// label is what stands at an arrow.
func label(e edge) string { return clip(e.label, 30, "…") }

// textWidth is how wide s is set in the sans-serif fonts that the picture
// names, rather too much than too little: it was measured with DejaVu Sans, the
// widest of them.
func textWidth(s string, size float64) float64 {
	em := 0.0
	for _, r := range s {
		switch {
		case strings.ContainsRune("iljI.,:;'|!()[]/ ft", r):
			em += 0.39
		case strings.ContainsRune("mwMW@%", r):
			em += 0.96
		case strings.ContainsRune("<>=+~^#", r):
			em += 0.84
		case r > 0x2e80:
			em += 1.05
		case unicode.IsUpper(r):
			em += 0.72
		default:
			em += 0.62
		}
	}
	return em * size
}

// drawing writes SVG.
type drawing struct {
	out *bufio.Writer
	g   *graph
}

func (d *drawing) f(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

// escaped is s as XML text. Characters that XML does not have are gone by now:
// printable turned them into codes.
func escaped(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		return "" // a strings.Builder does not fail
	}
	return b.String()
}

func (d *drawing) draw(p layout, boxes []box) {
	legend := d.legendItems()
	width := max(p.Width, legendWidth(legend), textWidth(d.g.title, titleSize), 420)
	for _, n := range d.g.notes {
		width = max(width, textWidth(n, smallSize))
	}
	const header, footer = 54.0, 56.0
	notes := float64(len(d.g.notes)) * 16
	total := header + p.Height + footer + notes
	d.f(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img" aria-labelledby="title" font-family="Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif">`+"\n",
		width+2*margin, total+2*margin, width+2*margin, total+2*margin)
	d.f("<title id=\"title\">%s</title>\n", escaped(d.g.title))
	d.style()
	d.f(`<rect class="ground" width="100%%" height="100%%"/>` + "\n")
	d.f(`<text class="title" x="%.0f" y="%.0f">%s</text>`+"\n", margin, margin+titleSize, escaped(d.g.title))
	d.f(`<g transform="translate(%.1f %.1f)">`+"\n", margin, margin+header)
	at := map[string]int{}
	for i, n := range d.g.nodes {
		at[n.id] = i
	}
	for i, e := range d.g.edges {
		from, to := at[e.from], at[e.to]
		d.edge(e, p.Edges[i], placed{boxes[from], p.Nodes[from], d.g.nodes[from].step}, placed{boxes[to], p.Nodes[to], d.g.nodes[to].step})
	}
	for i, n := range d.g.nodes {
		d.node(n, boxes[i], p.Nodes[i])
	}
	d.f("</g>\n")
	y := margin + header + p.Height + 32
	d.legend(legend, y)
	for i, n := range d.g.notes {
		d.f(`<text class="note" x="%.0f" y="%.1f">%s</text>`+"\n", margin, y+28+16*float64(i), escaped(n))
	}
	d.f("</svg>\n")
}

// style holds both grounds. On paper it is always the light one.
func (d *drawing) style() {
	d.f("<style>\n")
	d.f(".ground{fill:#ffffff}.title{font-size:%.0fpx;font-weight:600;fill:#1c2430}.name{font-size:%.0fpx;font-weight:600;fill:#1c2430}.detail,.role,.note,.key{font-size:%.0fpx;fill:#57616d}\n", titleSize, nameSize, smallSize)
	d.f(".edge{fill:none;stroke:#7b8794;stroke-width:1.4}.claimed{stroke-dasharray:6 4;stroke:#b7791f}.head{fill:#7b8794}.headclaimed{fill:#b7791f}.halo{fill:#ffffff;fill-opacity:.88}.box{stroke-width:1.3}.root{stroke-width:3}.warn{font-size:%.0fpx;font-weight:700;fill:#b45309}.bad{font-size:%.0fpx;font-weight:700;fill:#c62828}\n", nameSize, nameSize)
	for _, c := range palette() {
		d.f(".%s{fill:%s;stroke:%s}\n", c.class, c.fill, c.line)
	}
	d.f("@media screen and (prefers-color-scheme:dark){\n.ground{fill:#12171d}.title,.name{fill:#eef2f6}.detail,.role,.note,.key{fill:#a8b3bf}.edge{stroke:#77828e}.claimed{stroke:#e0a84a}.head{fill:#77828e}.headclaimed{fill:#e0a84a}.halo{fill:#12171d}.warn{fill:#f0b35a}.bad{fill:#f28b82}\n")
	for _, c := range palette() {
		d.f(".%s{fill:%s;stroke:%s}\n", c.class, c.darkFill, c.darkLine)
	}
	d.f("}\n</style>\n")
	d.f(`<defs>`)
	for _, head := range []string{"head", "headclaimed"} {
		d.f(`<marker id="%s" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path class="%s" d="M0 1 9.5 5 0 9z"/></marker>`, head, head)
	}
	d.f("</defs>\n")
}

// placed is a box where it stands.
type placed struct {
	box
	at   point
	step bool
}

// dock is where an arrow meets the right or the left side of the box, at the
// height of the point that it comes from or goes to, if there is room.
func (p placed) dock(side, y float64) point {
	room := p.h/2 - 9
	dy := min(max(y-p.at.Y, -room), room)
	at := point{p.at.X + side*p.w/2, p.at.Y + dy}
	if p.step {
		slope := math.Abs(dy) / (p.h / 2) * chevron
		if side > 0 {
			at.X -= slope
		} else {
			at.X += chevron - slope
		}
	}
	return at
}

func (d *drawing) edge(e edge, l edgeLayout, from, to placed) {
	class, head := "edge", "head"
	if e.claimed {
		class, head = "edge claimed", "headclaimed"
	}
	d.f(`<g><title>%s</title><path class="%s" marker-end="url(#%s)" d="%s"/>`, escaped(e.tooltip), class, head, curve(l.Points, from, to))
	if e.label != "" {
		text := label(e)
		w := textWidth(text, smallSize) + 6
		d.f(`<rect class="halo" x="%.1f" y="%.1f" width="%.1f" height="14" rx="3"/><text class="role" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`,
			l.X-w/2, l.Y-7, w, l.X, l.Y+3.8, escaped(text))
	}
	d.f("</g>\n")
}

// curve joins points by arcs that leave and reach each point horizontally, from
// the right side of one box to the left side of the other. An arrow that runs
// back, in a cycle, keeps the straight lines that dagre gave it.
func curve(points []point, from, to placed) string {
	points = slices.Clone(points)
	n := len(points)
	if n < 2 {
		return ""
	}
	forward := from.at.X+from.w/2 < to.at.X-to.w/2
	if forward {
		first, last := to.at.Y, from.at.Y
		if n > 2 {
			first, last = points[1].Y, points[n-2].Y
		}
		points[0], points[n-1] = from.dock(1, first), to.dock(-1, last)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "M%.1f %.1f", points[0].X, points[0].Y)
	for i, q := range points[1:] {
		p := points[i]
		if !forward || math.Abs(p.Y-q.Y) < 0.1 {
			fmt.Fprintf(&b, "L%.1f %.1f", q.X, q.Y)
			continue
		}
		mid := (p.X + q.X) / 2
		fmt.Fprintf(&b, "C%.1f %.1f %.1f %.1f %.1f %.1f", mid, p.Y, mid, q.Y, q.X, q.Y)
	}
	return b.String()
}

// chevron is how far the ends of a step's box point to the right.
const chevron = 11.0

func (d *drawing) node(n node, b box, at point) {
	x, y := at.X-b.w/2, at.Y-b.h/2
	class := "box " + kindClass(n.kind)
	if n.step {
		class = "box step"
	}
	if n.failed {
		class = "box failed"
	}
	if n.root {
		class += " root"
	}
	d.f(`<g id="%s"><title>%s</title>`, n.id, escaped(n.tooltip))
	left := x + boxPad
	if n.step {
		left += chevron
		d.f(`<path class="%s" d="M%.1f %.1fh%.1fl%.1f %.1f%.1f %.1fh%.1fl%.1f %.1fz"/>`, class, x, y, b.w-chevron, chevron, b.h/2, -chevron, b.h/2, -(b.w - chevron), chevron, -b.h/2)
	} else {
		d.f(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="9"/>`, class, x, y, b.w, b.h)
	}
	d.f(`<text class="name" x="%.1f" y="%.1f">%s</text><text class="detail" x="%.1f" y="%.1f">%s</text>`, left, y+21, escaped(b.name), left, y+38, escaped(b.detail))
	right := x + b.w - 12
	if n.step {
		right -= chevron
	}
	switch {
	case n.failed:
		d.f(`<text class="bad" text-anchor="end" x="%.1f" y="%.1f">✗</text>`, right, y+21)
	case n.warning:
		d.f(`<text class="warn" text-anchor="end" x="%.1f" y="%.1f">!</text>`, right, y+21)
	}
	d.f("</g>\n")
}

// legendItem is a sample and its word.
type legendItem struct{ class, word string }

// legendItems are the shapes and marks that the picture holds, and no others.
func (d *drawing) legendItems() []legendItem {
	has := map[string]bool{}
	for _, n := range d.g.nodes {
		switch {
		case n.failed:
			has["failed"] = true
		case n.step:
			has["step"] = true
		default:
			has[kindClass(n.kind)] = true
		}
		has["!"] = has["!"] || n.warning && !n.failed
	}
	var items []legendItem
	words := map[string]string{"oci": "image", "other": "other resource", "failed": "step that failed"}
	for _, c := range palette() {
		word := words[c.class]
		if word == "" {
			word = c.class
		}
		if has[c.class] {
			items = append(items, legendItem{c.class, word})
		}
	}
	if has["!"] {
		items = append(items, legendItem{"!", "gap: see the tooltip"})
	}
	for _, e := range d.g.edges {
		if e.claimed {
			return append(items, legendItem{"claimed", "claimed, not vouched for"})
		}
	}
	return items
}

const sample = 26.0 // width of a legend's sample

func legendWidth(items []legendItem) float64 {
	w := 0.0
	for _, it := range items {
		w += sample + 6 + textWidth(it.word, smallSize) + 18
	}
	return w
}

func (d *drawing) legend(items []legendItem, y float64) {
	x := margin
	for _, it := range items {
		switch it.class {
		case "claimed":
			d.f(`<path class="edge claimed" d="M%.1f %.1fh%.1f"/>`, x, y, sample)
		case "!":
			d.f(`<text class="warn" text-anchor="middle" x="%.1f" y="%.1f">!</text>`, x+sample/2, y+4)
		case "step", "failed":
			d.f(`<path class="box %s" d="M%.1f %.1fh20l5 7-5 7h-20l5-7z"/>`, it.class, x, y-7)
		default:
			d.f(`<rect class="box %s" x="%.1f" y="%.1f" width="%.1f" height="14" rx="4"/>`, it.class, x, y-7, sample-2)
		}
		d.f(`<text class="key" x="%.1f" y="%.1f">%s</text>`+"\n", x+sample+6, y+4, escaped(it.word))
		x += sample + 6 + textWidth(it.word, smallSize) + 18
	}
}
