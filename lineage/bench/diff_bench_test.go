package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
)

// BenchmarkDiff compares two resources above each of which lie about 2,000
// resources and steps: a hundred layers of ten steps. They differ in one file of
// data at the far end, a parameter halfway, and a script near the end, and thus
// in almost everything that was made. Warm is asked again, opened is asked for the
// first time since the index was opened.
func BenchmarkDiff(b *testing.B) {
	l := &log{made: map[schema.Key][]edge{}}
	if err := l.genesis(); err != nil {
		b.Fatal(err)
	}
	left, err := l.layers("left", nil)
	if err != nil {
		b.Fatal(err)
	}
	right, err := l.layers("right", map[string]string{"data/3": "other", "50/4": "0.2", "script/90": "other"})
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	open := func() (*lineage.Graph, *lineage.View) {
		g, err := lineage.Open(dir, l, noSigners, parseNothing)
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Follow(b.Context(), l); err != nil {
			b.Fatal(err)
		}
		v, err := g.View(lineage.At{})
		if err != nil {
			b.Fatal(err)
		}
		return g, v
	}
	ref := func(k schema.Key) lineage.Ref {
		return lineage.Ref{Text: string(k), Start: schema.Start{Key: k}, Entry: -1}
	}
	diff := func(b *testing.B, v *lineage.View) {
		d, err := v.Diff(b.Context(), ref(left), ref(right))
		if err != nil {
			b.Fatal(err)
		}
		causes := 0
		for _, found := range d.Differences {
			if found.Cause {
				causes++
			}
		}
		if causes != 4 { // the file of data is used under two paths
			b.Fatalf("%d causes among %d differences, want 4", causes, len(d.Differences))
		}
	}
	g, v := open()
	above, err := v.Lineage(b.Context(), ref(right), lineage.LineageOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d resources and %d steps above the right one", len(above.Resources), len(above.Steps))
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			diff(b, v)
		}
	})
	if err := g.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("opened", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			g, v := open()
			start := time.Now()
			diff(b, v)
			took += time.Since(start)
			if err := g.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(took.Microseconds())/float64(b.N)/1000, "ms/diff")
	})
}

// layers records a run of a hundred layers of ten steps, and returns what the
// last step made. Each uses two results of the layer before, and a script that
// its layer shares. Equal inputs, scripts and parameters make equal bytes.
func (l *log) layers(run string, changed map[string]string) (schema.Key, error) {
	content := func(what string) schema.Key { return keyOf(what + " " + changed[what]) }
	used := func(path string, k schema.Key) schema.Descriptor {
		return schema.Descriptor{Name: path, Digest: schema.DigestSet{schema.SHA256: k.Hex()}, Annotations: map[string]any{schema.AnnotationPath: path}}
	}
	const layers, width = 100, 10
	above := make([]schema.Key, width)
	for i := range above {
		above[i] = content(fmt.Sprintf("data/%d", i))
	}
	for layer := range layers {
		made := make([]schema.Key, width)
		for i := range made {
			name := fmt.Sprintf("%d/%d", layer, i)
			a, b, script := above[i], above[(i+1)%width], content(fmt.Sprintf("script/%d", layer))
			made[i] = keyOf(strings.Join([]string{name, changed[name], string(a), string(b), string(script)}, " "))
			rate := changed[name]
			if rate == "" {
				rate = "0.1"
			}
			p := schema.Provenance{RunDetails: schema.RunDetails{Builder: schema.Builder{ID: "bench"}, Metadata: schema.Metadata{InvocationID: run + " " + name}}}
			p.BuildDefinition.BuildType = "bench"
			p.BuildDefinition.ExternalParameters = fmt.Appendf(nil, `{"rate":%q}`, rate)
			p.BuildDefinition.ResolvedDependencies = []schema.Descriptor{used("a", a), used("b", b), used("script", script)}
			if err := l.add(schema.ProvenanceV1, p, schema.Descriptor{Name: name, Digest: schema.DigestSet{schema.SHA256: made[i].Hex()}}); err != nil {
				return "", err
			}
		}
		above = made
	}
	return above[0], nil
}
