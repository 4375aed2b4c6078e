package lineage_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// at is the view of g as at says.
func at(t *testing.T, g *lineage.Graph, at lineage.At) *lineage.View {
	t.Helper()
	v, err := g.View(at)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func resolve(t *testing.T, v *lineage.View, ref string) lineage.Ref {
	t.Helper()
	r, err := v.Resolve(ref)
	if err != nil {
		t.Fatalf("Resolve(%q): %v", ref, err)
	}
	return r
}

func answer(t *testing.T, v *lineage.View, ref string, opt lineage.LineageOptions) *lineage.Lineage {
	t.Helper()
	l, err := v.Lineage(t.Context(), resolve(t, v, ref), opt)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// file describes a file by what tests call its content.
func file(content string) schema.Descriptor { return lineagetest.File(content, content) }

// input is a file used as an input.
func input(content string) schema.Descriptor {
	return lineagetest.As(schema.RoleInput, content, file(content))
}

// key is the reference to such a file.
func ref(content string) string { return string(lineagetest.FileKey(content)) }

// run is a run that makes files from files.
func run(t *testing.T, id string, made string, used ...string) schema.Statement {
	t.Helper()
	r := lineagetest.Run{ID: id, Argv: []string{"make", made}, Makes: []schema.Descriptor{file(made)}}
	for _, u := range used {
		r.Uses = append(r.Uses, input(u))
	}
	return r.Statement(t)
}

// edges are the edges of an answer as the names of files, "made<used".
func edges(l *lineage.Lineage) []string {
	names := map[schema.Key]string{}
	for _, r := range l.Resources {
		names[r.Key] = r.Name
	}
	var out []string
	for _, e := range l.Edges {
		out = append(out, names[e.From]+"<"+names[e.To])
	}
	return out
}

// randomWorld writes n entries of random steps, names, trust and relations
// over few files, so that all of them meet.
func randomWorld(t *testing.T, seed uint64, n int) *lineagetest.Log {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	log := lineagetest.New(t)
	others := []byte{11, 12, 13}
	content := func() string { return fmt.Sprintf("file %d", rnd.IntN(12)) }
	var runs []string
	for i := range n {
		key := lineagetest.Key(t, others[rnd.IntN(len(others))])
		switch rnd.IntN(10) {
		case 0, 1, 2, 3, 4:
			r := lineagetest.Run{ID: fmt.Sprintf("run-%08d", i), Argv: []string{"step"}, Exit: rnd.IntN(2)}
			if len(runs) > 0 && rnd.IntN(4) == 0 { // what else is stated of a run
				r.ID = runs[rnd.IntN(len(runs))]
			}
			for range rnd.IntN(4) {
				u := input(content())
				if len(runs) > 0 && rnd.IntN(2) == 0 {
					u = lineagetest.From(runs[rnd.IntN(len(runs))], u)
				}
				r.Uses = append(r.Uses, u)
			}
			for range rnd.IntN(3) {
				r.Makes = append(r.Makes, file(content()))
			}
			runs = append(runs, r.ID)
			if s := r.Statement(t); rnd.IntN(3) == 0 {
				log.AddBy(key, s)
			} else {
				log.Add(s)
			}
		case 5, 6:
			run := ""
			if len(runs) > 0 {
				run = runs[rnd.IntN(len(runs))]
			}
			log.Add(lineagetest.Model(t, fmt.Sprintf("m%d", rnd.IntN(2)), fmt.Sprint(rnd.IntN(3)), run, file(content())))
		case 7:
			image := schema.Image{Repository: "r", MediaType: "m"}
			if rnd.IntN(2) == 0 {
				image.Labels = map[string]string{"org.opencontainers.image.base.digest": ref(content())}
			}
			for range rnd.IntN(4) { // few different layers, so that some images begin as others are
				layer := ref(fmt.Sprintf("layer %d", rnd.IntN(2)))
				image.Layers = append(image.Layers, schema.Blob{Digest: layer, MediaType: "m", DiffID: layer})
			}
			log.Add(lineagetest.Statement(t, schema.ImageV1, image, file(content())))
		case 8:
			log.Add(lineagetest.Trust(t, key, func(p *schema.Trust) {
				if rnd.IntN(3) == 0 {
					p.Action, p.NotAfter = "revoke", lineagetest.RecordedAt(int64(rnd.IntN(n)))
				}
			}))
		case 9:
			d := file(content())
			d.URI = fmt.Sprintf("s3://bucket/%d", rnd.IntN(3))
			log.Add(lineagetest.Statement(t, schema.AttestationV1, schema.Attestation{Claim: fmt.Sprint(i)}, d))
		}
	}
	return log
}

// worlds is how many random worlds a test looks at: one where tests are asked
// to be short, as under the race detector.
func worlds(n uint64) uint64 {
	if testing.Short() {
		return 1
	}
	return n
}

// everything is what a view answers to every question that tests ask, for two
// views to be compared.
func everything(t *testing.T, v *lineage.View) map[string]any {
	t.Helper()
	out := map[string]any{}
	say := func(name string, value any, err error) {
		if err != nil {
			value = err.Error()
		}
		out[name] = value
	}
	refs := []string{"m0", "m1", "s3://bucket/0", "s3://bucket/1", "s3://bucket/2", "run:run-0000", "run:run-00000001"}
	for i := range 12 {
		refs = append(refs, ref(fmt.Sprintf("file %d", i)))
	}
	for name := range 2 {
		for version := range 3 {
			refs = append(refs, fmt.Sprintf("m%d@%d", name, version))
		}
	}
	for _, text := range refs {
		r, err := v.Resolve(text)
		say("resolve "+text, r, err)
		if err != nil || r.Start.Key == "" {
			continue
		}
		for _, d := range []schema.Direction{schema.Upstream, schema.Downstream} {
			l, err := v.Lineage(t.Context(), r, lineage.LineageOptions{Direction: d})
			say(string(d)+" "+text, l, err)
			l, err = v.Lineage(t.Context(), r, lineage.LineageOptions{Direction: d, Depth: 2})
			say(string(d)+" depth 2 "+text, l, err)
		}
		gaps, err := v.Gaps(t.Context(), r, nil)
		say("gaps "+text, gaps, err)
		names, err := v.NamesOf(r.Start.Key)
		say("names "+text, names, err)
	}
	names, err := v.Names("")
	say("names", names, err)
	for _, n := range names {
		h, err := v.History(n)
		say("history "+n, h, err)
	}
	say("entries", collect(t, v.Entries(t.Context(), 0, lineage.Filter{})), nil)
	say("runs", collect(t, v.Entries(t.Context(), 0, lineage.Filter{PredicateType: schema.ProvenanceV1})), nil)
	say("models", collect(t, v.Models(t.Context(), 0, "", lineage.Filter{})), nil)
	return out
}

func cmpDiff(want, got any) string { return cmp.Diff(want, got, cmpopts.EquateEmpty()) }

func contains(s, part string) bool { return strings.Contains(s, part) }

// collect takes all of a sequence. One that was cut off since the index is being
// built anew is short: whoever reads meanwhile asks the view whether that was so.
func collect[T any](t *testing.T, seq iter.Seq2[T, error]) []T {
	t.Helper()
	var out []T
	for x, err := range seq {
		if errors.Is(err, lineage.ErrRebuilt) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, x)
	}
	return out
}

// TestAsOfSize checks that an index answers as of each earlier size what an
// index answers that never saw more.
func TestAsOfSize(t *testing.T) {
	for seed := range worlds(2) {
		log := randomWorld(t, seed, 36)
		big := log.Graph(t)
		everything(t, at(t, big, lineage.At{})) // fills the caches, which must not matter
		prefix := log.Prefix(1).Open(t, t.TempDir())
		for size := int64(1); size <= log.Size(); size++ {
			small := log.Prefix(size)
			if err := prefix.Follow(t.Context(), small); err != nil {
				t.Fatal(err)
			}
			want := everything(t, at(t, prefix, lineage.At{}))
			got := everything(t, at(t, big, lineage.At{Size: size}))
			if diff := cmpDiff(want, got); diff != "" {
				t.Fatalf("seed %d: as of %d entries, the index of all %d answers otherwise (-want +got):\n%s", seed, size, log.Size(), diff)
			}
		}
		if err := prefix.Compare(t.Context(), big); err != nil {
			t.Errorf("seed %d: followed entry by entry and at once: %v", seed, err)
		}
	}
}

// TestWalkAgrees checks that the walk over the index and the walk that an
// offline verifier makes over facts in memory give the same edges, and that
// the entries of an answer are enough for it.
func TestWalkAgrees(t *testing.T) {
	for seed := range worlds(4) {
		log := randomWorld(t, seed, 80)
		v := log.View(t)
		all := factGraph(t, log, v, nil)
		for i := range 12 {
			for _, d := range []schema.Direction{schema.Upstream, schema.Downstream} {
				r, err := v.Resolve(ref(fmt.Sprintf("file %d", i)))
				if err != nil {
					continue
				}
				l, err := v.Lineage(t.Context(), r, lineage.LineageOptions{Direction: d})
				if err != nil {
					t.Fatal(err)
				}
				opt := schema.WalkOptions{Direction: d}
				if diff := cmp.Diff(l.Edges, collect(t, schema.Walk(t.Context(), all, r.Start, opt)), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("seed %d, file %d %s: over all facts (-index +facts):\n%s", seed, i, d, diff)
				}
				deep := schema.WalkOptions{Direction: d, DepthFirst: true}
				if diff := cmp.Diff(edgeSet(l.Edges), edgeSet(collect(t, schema.Walk(t.Context(), v, r.Start, deep)))); diff != "" {
					t.Errorf("seed %d, file %d %s: depth first (-nearest first +depth first):\n%s", seed, i, d, diff)
				}
				few := factGraph(t, log, v, l.Entries)
				if diff := cmp.Diff(l.Edges, collect(t, schema.Walk(t.Context(), few, r.Start, opt)), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("seed %d, file %d %s: over the %d entries of the answer (-index +facts):\n%s", seed, i, d, len(l.Entries), diff)
				}
			}
		}
	}
}

// edgeSet are the edges wherever they were met, each once.
func edgeSet(edges []schema.Edge) map[schema.Edge]bool {
	set := map[schema.Edge]bool{}
	for _, e := range edges {
		e.Depth = 0
		set[e] = true
	}
	return set
}

// factGraph is the graph of some entries of log, of all if only is nil, with
// the view's grades.
func factGraph(t *testing.T, log *lineagetest.Log, v *lineage.View, only []int64) *schema.FactGraph {
	t.Helper()
	g := schema.NewFactGraph()
	for e, err := range log.Entries(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if only != nil && !slices.Contains(only, e.Index) {
			continue
		}
		s, err := e.Envelope.Statement()
		if err != nil {
			t.Fatal(err)
		}
		f, err := s.Facts()
		if err != nil {
			t.Fatal(err)
		}
		grade, err := v.Grade(t.Context(), e.Index)
		if err != nil {
			t.Fatal(err)
		}
		g.Add(e.Index, f, grade)
	}
	return g
}
