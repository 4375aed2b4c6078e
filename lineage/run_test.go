package lineage_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestOneRunIsOneStep states one run in several entries: which of them count,
// upstream, downstream and by the run's ID.
func TestOneRunIsOneStep(t *testing.T) {
	builder, stranger := lineagetest.Key(t, 11), lineagetest.Key(t, 12)
	seen := func(status string, replaces schema.Key, used ...string) schema.Statement {
		var uses []schema.Descriptor
		for _, u := range used {
			uses = append(uses, input(u))
		}
		return lineagetest.Watch(t, "run-1", schema.StepParameters{Status: status, Replaces: replaces}, uses, []schema.Descriptor{file("made")})
	}
	first := seen("RUNNING", "", "a")
	second := seen("COMPLETE", first.Subject[0].Key(), "a", "b")
	attested := run(t, "run-1", "made", "a", "c")
	old := lineagetest.Statement(t, schema.ProvenanceV02, map[string]any{
		"builder": map[string]string{"id": "https://example.org/b"}, "buildType": "https://example.org/t",
		"materials": []schema.Descriptor{file("a"), file("d")},
	}, file("made"))
	oldFacts, err := old.Facts()
	if err != nil {
		t.Fatal(err)
	}
	seenOld := lineagetest.Watch(t, "run-1", schema.StepParameters{Status: "Succeeded", Parent: "whole", AttestedBy: []schema.Key{oldFacts.Step.Predicate}}, []schema.Descriptor{input("a")}, []schema.Descriptor{file("made")})
	whole := lineagetest.Watch(t, "whole", schema.StepParameters{Status: "Succeeded"}, []schema.Descriptor{input("b")}, []schema.Descriptor{file("made")})
	type entry struct {
		say       schema.Statement
		by        string // "" for the observer, "nobody", or a key
		namespace string
	}
	for name, tt := range map[string]struct {
		entries []entry
		want    []string // what "made" was made from, with the entry that says so
		listed  []int64  // as steps; those of want if nil
	}{
		"a later statement takes the place of the one it names": {
			entries: []entry{{say: first}, {say: second}}, want: []string{"a@1", "b@1"}},
		"in whichever order they were recorded": {
			entries: []entry{{say: second}, {say: first}}, want: []string{"a@0", "b@0"}},
		"claims among claims": {
			entries: []entry{{say: first, by: "nobody"}, {say: second, by: "nobody"}}, want: []string{"a@1", "b@1"}},
		"of which none replaces what was observed": {
			entries: []entry{{say: first}, {say: second, by: "nobody"}}, want: []string{"a@0"}},
		"nor adds to it": {
			entries: []entry{{say: first}, {say: run(t, "run-1", "made", "evil"), by: "stranger"}}, want: []string{"a@0"}},
		"an attestation stands for what was seen": {
			entries: []entry{{say: attested, by: "builder"}, {say: second}}, want: []string{"a@0", "c@0"}},
		"whichever came first": {
			entries: []entry{{say: second}, {say: attested, by: "builder"}}, want: []string{"a@1", "c@1"}},
		"in its own namespace": {
			entries: []entry{{say: second}, {say: attested, by: "builder", namespace: "other"}}, want: []string{"a@0", "a@1", "b@0", "c@1"}},
		"an attestation that names no run is of the one whose statement names it": {
			entries: []entry{{say: seenOld}, {say: old, by: "builder"}}, want: []string{"a@1", "d@1"}},
		"unless nobody trusts it": {
			entries: []entry{{say: old, by: "stranger"}, {say: seenOld}}, want: []string{"a@1"}, listed: []int64{0, 1}},
		"the whole did not make again what a part of it made": {
			entries: []entry{{say: whole}, {say: seenOld}}, want: []string{"a@1"}, listed: []int64{0, 1}},
		"two that name none are both shown": {
			entries: []entry{{say: first}, {say: seen("COMPLETE", "", "b")}}, want: []string{"a@0", "b@1"}},
		"another run of the same bytes is another step": {
			entries: []entry{{say: first}, {say: second}, {say: run(t, "run-2", "made", "d")}}, want: []string{"a@1", "b@1", "d@2"}},
	} {
		t.Run(name, func(t *testing.T) {
			log := lineagetest.New(t)
			log.Add(lineagetest.Trust(t, builder, nil))
			start := log.Size()
			for _, e := range tt.entries {
				switch {
				case e.namespace != "":
					env, err := builder.SignStatement(e.say)
					if err != nil {
						t.Fatal(err)
					}
					log.AddEnvelope(env, e.namespace)
				case e.by == "nobody":
					log.AddUnsigned(e.say)
				case e.by == "stranger":
					log.AddBy(stranger, e.say)
				case e.by == "builder":
					log.AddBy(builder, e.say)
				default:
					log.Add(e.say)
				}
			}
			v := log.View(t)
			got := made(t, v, start, schema.Upstream, "made")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("upstream (-want +got):\n%s", diff)
			}
			var down []string
			for _, f := range []string{"a", "b", "c", "d", "evil"} {
				down = append(down, made(t, v, start, schema.Downstream, f)...)
			}
			slices.Sort(down)
			if diff := cmp.Diff(tt.want, down); diff != "" {
				t.Errorf("downstream (-want +got):\n%s", diff)
			}
			r, err := v.Resolve("run:run-1")
			if err != nil {
				t.Fatal(err)
			}
			var listed []int64
			for s, err := range v.Steps(t.Context(), 0, "", lineage.Filter{}) {
				if err != nil {
					t.Fatal(err)
				}
				listed = append(listed, s.Entry-start)
			}
			want := tt.listed
			if want == nil {
				want = entriesOf(tt.want)
			}
			if diff := cmp.Diff(want, listed); diff != "" {
				t.Errorf("steps listed (-want +got):\n%s", diff)
			}
			step, err := v.Producers(t.Context(), r.Start)
			if err != nil || len(step) != 1 {
				t.Fatalf("run:run-1 is made by %d steps, %v", len(step), err)
			}
		})
	}
}

// made are the edges between "made" and other files as "file@entry", of a walk
// from the file called root; entries count from start.
func made(t *testing.T, v *lineage.View, start int64, d schema.Direction, root string) []string {
	t.Helper()
	r, err := v.Resolve(ref(root))
	if err != nil {
		return nil // in none of the entries
	}
	l, err := v.Lineage(t.Context(), r, lineage.LineageOptions{Direction: d})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range l.Edges {
		for _, f := range []string{"a", "b", "c", "d", "evil"} {
			if e.To == lineagetest.FileKey(f) {
				out = append(out, f+"@"+string(rune('0'+e.Entry-start)))
			}
		}
	}
	slices.Sort(out)
	return out
}

// entriesOf are the entries of edges that made gives, each once.
func entriesOf(edges []string) []int64 {
	var out []int64
	for _, e := range edges {
		out = append(out, int64(e[len(e)-1]-'0'))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
