package picture

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/retrace-ledger/retrace/lineage"
)

// Mermaid writes l as a Mermaid flowchart, as GitHub and notebooks draw it.
func Mermaid(w io.Writer, l *lineage.Lineage) error {
	g := newGraph(l)
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "---\ntitle: %s\n---\nflowchart LR\n", yamlString(g.title))
	kinds := map[string]bool{}
	for _, n := range g.nodes {
		open, end, class := `("`, `")`, kindClass(n.kind)
		if n.step {
			open, end, class = `{{"`, `"}}`, "step"
		}
		if n.failed {
			class = "failed"
		}
		kinds[class] = true
		fmt.Fprintf(out, "  %s%s%s<br>%s%s:::%s\n", n.id, open, mermaidText(n.name), mermaidText(n.detail), end, class)
	}
	for _, e := range g.edges {
		arrow := "-->"
		if e.claimed {
			arrow = "-.->"
		}
		if e.label != "" {
			arrow += `|"` + mermaidText(e.label) + `"|`
		}
		fmt.Fprintf(out, "  %s %s %s\n", e.from, arrow, e.to)
	}
	for _, c := range palette() {
		if kinds[c.class] {
			fmt.Fprintf(out, "  classDef %s fill:%s,stroke:%s,color:#1c2430\n", c.class, c.fill, c.line)
		}
	}
	for _, n := range g.nodes {
		if n.root {
			fmt.Fprintf(out, "  style %s stroke-width:3px\n", n.id)
		}
	}
	for _, n := range g.notes {
		fmt.Fprintf(out, "  %%%% %s\n", strings.NewReplacer("{", "(", "}", ")").Replace(n))
	}
	return out.Flush()
}

// mermaidText writes text inside a quoted label. Whatever could end the label,
// begin a tag, a link or a markdown string, or be read as an entity, is written
// as an entity by number.
func mermaidText(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r > 0x7f, strings.ContainsRune(" -_./:=,+@()~", r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	return b.String()
}

// yamlString is a double-quoted YAML scalar of text that prints.
func yamlString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
