package picture_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/picture"
	"github.com/retrace-ledger/retrace/schema"
)

// hostile are names that would break out of each format if they were not
// escaped.
var hostile = []string{
	`</title></svg><script>alert(1)</script>`,
	`" onload="alert(1)`,
	`"]; evil -> node; x ["`,
	`a\`,
	`x"] --> y["`,
	"`**bold**`",
	"#quot;&lt;&amp;<!--",
	"one\ntwo\r\nthree",
	"\x1b[2J\x1b]0;owned\a",
	"right\u202eleft\u2066\u200b",
	"\x00\xff\xfe",
	"]]>%%{init: {}}%%",
	strings.Repeat("very-long-name/", 40),
	"模型数据",
}

// hostileLineage is that of a file made by a failed step from files with
// hostile names, one of which nobody signed for.
func hostileLineage(t *testing.T) *lineage.Lineage {
	t.Helper()
	log := lineagetest.New(t)
	run := lineagetest.Run{
		ID: "bad", Argv: append([]string{"/opt/evil tool"}, "arg\x1b[31m", `"; rm -rf`), Exit: 3, Started: lineagetest.Epoch, Took: time.Second,
		Parameters: map[string]string{"k\x1b[0m": "<v>"},
		Makes:      []schema.Descriptor{lineagetest.File("out<&>\"'", "out")},
	}
	for i, name := range hostile {
		if !isUTF8(name) {
			name = strings.ToValidUTF8(name, "?")
		}
		run.Uses = append(run.Uses, lineagetest.As(schema.RoleInput, "", lineagetest.File(name, fmt.Sprint("content ", i))))
	}
	log.AddUnsigned(run.Statement(t))
	return ask(t, log, string(lineagetest.FileKey("out")), lineage.LineageOptions{})
}

func isUTF8(s string) bool { return strings.ToValidUTF8(s, "") == s }

// parsed is what the tests look at in an SVG.
type parsed struct {
	boxes map[string]rect // by node id
	text  string
}

type rect struct{ x0, y0, x1, y1 float64 }

// parseSVG reads an SVG as XML and fails on anything but the elements that a
// picture is made of.
func parseSVG(t *testing.T, raw []byte) parsed {
	t.Helper()
	allowed := map[string]bool{"svg": true, "title": true, "style": true, "rect": true, "text": true, "g": true, "defs": true, "marker": true, "path": true}
	out := parsed{boxes: map[string]rect{}}
	dec := xml.NewDecoder(bytes.NewReader(raw))
	var stack []string
	var text strings.Builder
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			out.text = text.String()
			return out
		}
		if err != nil {
			t.Fatalf("the SVG is not well-formed: %v", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if !allowed[tok.Name.Local] {
				t.Errorf("the SVG holds a <%s>", tok.Name.Local)
			}
			id := ""
			attrs := map[string]string{}
			for _, a := range tok.Attr {
				attrs[a.Name.Local] = a.Value
				if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "href" {
					t.Errorf("<%s> has the attribute %s=%q", tok.Name.Local, a.Name.Local, a.Value)
				}
			}
			if tok.Name.Local == "g" {
				id = attrs["id"]
			}
			if n := len(stack); n > 0 && stack[n-1] != "" && strings.HasPrefix(attrs["class"], "box ") {
				out.boxes[stack[n-1]] = boxOf(t, tok.Name.Local, attrs)
			}
			stack = append(stack, id)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			text.Write(tok)
			text.WriteByte('\n')
		}
	}
}

// boxOf is the rectangle that a node's shape covers.
func boxOf(t *testing.T, element string, attrs map[string]string) rect {
	t.Helper()
	num := func(s string) float64 {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatalf("coordinate %q: %v", s, err)
		}
		return f
	}
	if element == "rect" {
		x, y := num(attrs["x"]), num(attrs["y"])
		return rect{x, y, x + num(attrs["width"]), y + num(attrs["height"])}
	}
	var x, y, run, tip, half float64
	if _, err := fmt.Sscanf(attrs["d"], "M%f %fh%fl%f %f", &x, &y, &run, &tip, &half); err != nil {
		t.Fatalf("path %q: %v", attrs["d"], err)
	}
	return rect{x, y, x + run + tip, y + 2*half}
}

func draw(t *testing.T, l *lineage.Lineage) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := picture.SVG(&b, l); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSVGIsSafe(t *testing.T) {
	l := hostileLineage(t)
	raw := draw(t, l)
	p := parseSVG(t, raw)
	if want := len(l.Resources) + len(l.Steps); len(p.boxes) != want {
		t.Errorf("the picture has %d boxes, want one for each of %d resources and steps", len(p.boxes), want)
	}
	for _, r := range l.Resources {
		if !strings.Contains(p.text, string(r.Key)) {
			t.Errorf("no tooltip holds the whole digest %s", r.Key)
		}
	}
	for _, c := range []string{"\x1b", "\u202e", "\u2066", "<script", "http://evil"} {
		if bytes.Contains(raw, []byte(c)) {
			t.Errorf("the SVG holds %q", c)
		}
	}
}

func TestTextIsSafe(t *testing.T) {
	l := hostileLineage(t)
	for name, draw := range map[string]func(io.Writer) error{
		"tree":    func(w io.Writer) error { return picture.Tree(w, l, picture.TreeOptions{Unicode: true, All: true}) },
		"dot":     func(w io.Writer) error { return picture.DOT(w, l) },
		"mermaid": func(w io.Writer) error { return picture.Mermaid(w, l) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := draw(&b); err != nil {
				t.Fatal(err)
			}
			for _, c := range []string{"\x1b", "\a", "\r", "\u202e", "\u2066", "\x00", "\u200b"} {
				if strings.Contains(b.String(), c) {
					t.Errorf("it holds %q:\n%s", c, b.String())
				}
			}
		})
	}
	var b bytes.Buffer
	if err := picture.DOT(&b, l); err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(b.String(), "\n") {
		if quotes := strings.Count(strings.ReplaceAll(strings.ReplaceAll(line, `\\`, ""), `\"`, ""), `"`); quotes%2 != 0 {
			t.Errorf("DOT line %d has a string that does not end: %s", n+1, line)
		}
	}
	b.Reset()
	if err := picture.Mermaid(&b, l); err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(b.String(), "\n") {
		if strings.HasPrefix(line, "  r") && strings.Count(line, `"`) != 2 && !strings.Contains(line, "-->") && !strings.Contains(line, "-.->") {
			t.Errorf("Mermaid line %d has a label that does not end: %s", n+1, line)
		}
	}
}

// TestNoOverlap draws worlds of different shape and checks that no two boxes
// touch.
func TestNoOverlap(t *testing.T) {
	worlds := map[string]*lineage.Lineage{
		"forecast": forecast(t, "forecast@2", lineage.LineageOptions{}),
		"hostile":  hostileLineage(t),
		"wide":     chain(t, 12, 5),
		"cycle":    cycle(t),
	}
	for name, l := range worlds {
		t.Run(name, func(t *testing.T) {
			p := parseSVG(t, draw(t, l))
			for a, ra := range p.boxes {
				for b, rb := range p.boxes {
					if a < b && ra.x0 < rb.x1 && rb.x0 < ra.x1 && ra.y0 < rb.y1 && rb.y0 < ra.y1 {
						t.Errorf("%s %v and %s %v overlap", a, ra, b, rb)
					}
				}
			}
			if len(p.boxes) < 3 {
				t.Errorf("only %d boxes", len(p.boxes))
			}
		})
	}
}

// chain is the lineage of the last of n steps, each of which uses the file of
// the step before and some files of its own.
func chain(t *testing.T, n, own int) *lineage.Lineage {
	t.Helper()
	log := lineagetest.New(t)
	for i := range n {
		r := lineagetest.Run{ID: fmt.Sprintf("run-%d", i), Argv: []string{"step", strconv.Itoa(i)}, Started: lineagetest.Epoch, Makes: []schema.Descriptor{lineagetest.File("f", fmt.Sprint("file ", i))}}
		if i > 0 {
			r.Uses = append(r.Uses, lineagetest.As(schema.RoleInput, "", lineagetest.File("f", fmt.Sprint("file ", i-1))))
		}
		for j := range own {
			r.Uses = append(r.Uses, lineagetest.As(schema.RoleInput, "", lineagetest.File("own", fmt.Sprint("own ", i, " ", j))))
		}
		log.Add(r.Statement(t))
	}
	return ask(t, log, string(lineagetest.FileKey(fmt.Sprint("file ", n-1))), lineage.LineageOptions{})
}

// cycle is a file that a step rewrote from a file that was made from it.
func cycle(t *testing.T) *lineage.Lineage {
	t.Helper()
	log := lineagetest.New(t)
	a, b := lineagetest.File("a", "a"), lineagetest.File("b", "b")
	log.Add(lineagetest.Run{ID: "there", Argv: []string{"there"}, Uses: []schema.Descriptor{a}, Makes: []schema.Descriptor{b}}.Statement(t))
	log.Add(lineagetest.Run{ID: "back", Argv: []string{"back"}, Uses: []schema.Descriptor{b}, Makes: []schema.Descriptor{a}}.Statement(t))
	return ask(t, log, string(lineagetest.FileKey("a")), lineage.LineageOptions{})
}

func TestTooLarge(t *testing.T) {
	l := chain(t, 3, picture.MaxNodes/2)
	err := picture.SVG(io.Discard, l)
	var large *picture.TooLargeError
	if !errors.As(err, &large) || large.Nodes <= picture.MaxNodes {
		t.Fatalf("SVG of %d resources: %v, want a TooLargeError", len(l.Resources), err)
	}
	for _, want := range []string{strconv.Itoa(picture.MaxNodes), "--depth"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
	if err := picture.DOT(io.Discard, l); err != nil {
		t.Errorf("DOT is not bounded: %v", err)
	}
}

// TestTreeEnds draws what goes round in circles, and what is deeper than a
// tree is drawn.
func TestTreeEnds(t *testing.T) {
	var b bytes.Buffer
	if err := picture.Tree(&b, cycle(t), picture.TreeOptions{Unicode: true}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "↑ shown above"); n != 1 {
		t.Errorf("the cycle is referred to %d times, want once:\n%s", n, b.String())
	}
	b.Reset()
	if err := picture.Tree(&b, chain(t, 130, 0), picture.TreeOptions{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "deeper than this tree is drawn: ask for sha256:") {
		t.Errorf("the tree does not say where it ends:\n%s", b.String()[max(0, b.Len()-400):])
	}
}

// TestTreeMarks checks what a reader is warned of.
func TestTreeMarks(t *testing.T) {
	var b bytes.Buffer
	if err := picture.Tree(&b, hostileLineage(t), picture.TreeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"x failed", "exit 3", "? claimed only", "evil tool"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the tree does not say %q:\n%s", want, b.String())
		}
	}
}

// TestStepWithoutUses checks that a step which used nothing is drawn.
func TestStepWithoutUses(t *testing.T) {
	log := lineagetest.New(t)
	log.Add(lineagetest.Run{ID: "fetch", Argv: []string{"fetch"}, Started: lineagetest.Epoch, Makes: []schema.Descriptor{lineagetest.File("data", "data")}}.Statement(t))
	l := ask(t, log, string(lineagetest.FileKey("data")), lineage.LineageOptions{})
	var b bytes.Buffer
	if err := picture.Tree(&b, l, picture.TreeOptions{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "`- fetch  #1") {
		t.Errorf("the tree lacks the step:\n%s", b.String())
	}
	if p := parseSVG(t, draw(t, l)); len(p.boxes) != 2 {
		t.Errorf("the picture has %d boxes, want 2", len(p.boxes))
	}
}

// TestDagreIsWhatItSays holds the bundled file to the digest beside it.
func TestDagreIsWhatItSays(t *testing.T) {
	js, err := os.ReadFile("dagre/dagre.min.js")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("dagre/README.md")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(js)
	if !bytes.Contains(readme, []byte(hex.EncodeToString(sum[:]))) {
		t.Errorf("dagre.min.js has the digest %x, which its README does not name", sum)
	}
}

func BenchmarkSVG(b *testing.B) {
	l := chainB(b, 40)
	for b.Loop() {
		if err := picture.SVG(io.Discard, l); err != nil {
			b.Fatal(err)
		}
	}
}

func chainB(b *testing.B, n int) *lineage.Lineage {
	b.Helper()
	log := lineagetest.New(b)
	for i := range n {
		log.Add(lineagetest.Run{
			ID: fmt.Sprint("run-", i), Argv: []string{"step"}, Makes: []schema.Descriptor{lineagetest.File("f", fmt.Sprint(i))},
			Uses: []schema.Descriptor{lineagetest.File("f", fmt.Sprint(i-1))},
		}.Statement(b))
	}
	v := log.View(b)
	r, err := v.Resolve(string(lineagetest.FileKey(fmt.Sprint(n - 1))))
	if err != nil {
		b.Fatal(err)
	}
	l, err := v.Lineage(b.Context(), r, lineage.LineageOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return l
}
