package picture

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/retrace-ledger/retrace/lineage"
)

// DOT writes l as a digraph in the language of Graphviz.
func DOT(w io.Writer, l *lineage.Lineage) error {
	g := newGraph(l)
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "digraph lineage {\n\tlabel=%s\n", dotString(append([]string{g.title}, g.notes...)...))
	out.WriteString("\tlabelloc=t\n\trankdir=LR\n\tnode [fontname=\"Helvetica\" fontsize=11 style=\"rounded,filled\" shape=box]\n\tedge [fontname=\"Helvetica\" fontsize=9]\n")
	for _, n := range g.nodes {
		attrs := []string{"label=" + dotString(n.name, n.detail), "tooltip=" + dotString(n.tooltip)}
		c := colorsOf(n.kind)
		switch {
		case n.failed:
			attrs = append(attrs, "shape=cds", "style=filled", `fillcolor="#fde8e7"`, `color="#c62828"`, "penwidth=2")
		case n.step:
			attrs = append(attrs, "shape=cds", "style=filled", `fillcolor="#eceff3"`, `color="#4a5563"`)
		default:
			attrs = append(attrs, fmt.Sprintf("fillcolor=%q color=%q", c.fill, c.line))
		}
		if n.root {
			attrs = append(attrs, "penwidth=2.5")
		}
		fmt.Fprintf(out, "\t%s [%s]\n", n.id, strings.Join(attrs, " "))
	}
	for _, e := range g.edges {
		var attrs []string
		if e.label != "" {
			attrs = append(attrs, "label="+dotString(e.label))
		}
		attrs = append(attrs, "edgetooltip="+dotString(e.tooltip))
		if e.claimed {
			attrs = append(attrs, "style=dashed")
		}
		fmt.Fprintf(out, "\t%s -> %s [%s]\n", e.from, e.to, strings.Join(attrs, " "))
	}
	out.WriteString("}\n")
	return out.Flush()
}

// dotString quotes lines as one escString of DOT: backslash begins an escape
// of its own there and is doubled.
func dotString(lines ...string) string {
	for i, l := range lines {
		l = strings.ReplaceAll(l, `\`, `\\`)
		l = strings.ReplaceAll(l, `"`, `\"`)
		lines[i] = strings.ReplaceAll(l, "\n", `\n`)
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}
