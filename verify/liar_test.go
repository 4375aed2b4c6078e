package verify_test

import (
	"slices"
	"testing"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// TestRunOfAnotherResource asks about a run and is answered about something
// that the run did not make.
func TestRunOfAnotherResource(t *testing.T) {
	w := newWorld(t)
	for name, ref := range map[string]string{"as the question": "run:train-2", "without a question": ""} {
		t.Run(name, func(t *testing.T) {
			b := w.prove(t, string(lineagetest.FileKey("features weather until February")), lineage.LineageOptions{})
			b.Claim.Ref, b.Claim.Run = ref, "train-2"
			_, err := b.Verify(t.Context(), w.Verifier(), nil)
			checkError(t, err, true, "run")
		})
	}
	t.Run("an output for the run", func(t *testing.T) {
		b := w.prove(t, "forecast@2", lineage.LineageOptions{})
		b.Claim.Ref, b.Claim.Name, b.Claim.Entry = "run:train-2", "", -1
		_, err := b.Verify(t.Context(), w.Verifier(), nil)
		checkError(t, err, true, "question")
	})
}

// TestBundleWithoutAnything drops the answer and what it rests on: what is
// left holds, and the verdict says that nobody is known to have made the root.
func TestBundleWithoutAnything(t *testing.T) {
	w := newWorld(t)
	b := w.prove(t, string(lineagetest.FileKey("package")), lineage.LineageOptions{})
	b.Claim.Edges, b.Entries = nil, b.Entries[:1]
	v, err := b.Verify(t.Context(), w.Verifier(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !says(v.NotProven, "where "+lineagetest.FileKey("package").Short()+" came from") {
		t.Errorf("not proven %q lacks the root", v.NotProven)
	}
}

// TestBundleRestsOnLaterEntries answers for a size by an entry beyond it.
func TestBundleRestsOnLaterEntries(t *testing.T) {
	w := newWorld(t)
	naming := w.Add(lineagetest.Model(t, "forecast", "3", "train-2", lineagetest.File("model.json", "model weather until March")))
	w.view = w.View(t)
	b := w.prove(t, "forecast@3", lineage.LineageOptions{})
	b.Claim.Size = naming
	_, err := b.Verify(t.Context(), w.Verifier(), nil)
	checkError(t, err, true, "rests on entry")
}

// TestBundleByAClaimedName proves by an unsigned naming what an observed one
// in the same bundle says otherwise; without the latter the verdict says how
// little the naming is worth.
func TestBundleByAClaimedName(t *testing.T) {
	w := newWorld(t)
	old := lineagetest.FileKey("model weather until February")
	claimed := w.AddUnsigned(lineagetest.Model(t, "forecast", "2", "train-1", lineagetest.File("model.json", "model weather until February")))
	w.view = w.View(t)
	ref, err := w.view.Resolve("forecast@2")
	if err != nil || ref.Entry == claimed {
		t.Fatalf("Resolve = %+v, %v", ref, err)
	}
	l, err := w.view.Lineage(t.Context(), lineage.Ref{Start: schema.Start{Key: old, Run: "train-1"}}, lineage.LineageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	claim := verify.Claim{Ref: "forecast@2", Name: "model:forecast@2", Entry: claimed, Root: old, Run: "train-1", Direction: l.Direction, Size: l.Size, Edges: l.Edges}
	b, err := verify.Build(t.Context(), w.Log, claim, l.Entries...)
	if err != nil {
		t.Fatal(err)
	}
	v, err := b.Verify(t.Context(), w.Verifier(), nil)
	if err != nil || !says(v.Proven, "(claimed)") || !says(v.NotProven, "pointed nowhere else") {
		t.Errorf("verdict %+v, %v; want it to say that the name is claimed, and may point elsewhere", v, err)
	}
	b, err = verify.Build(t.Context(), w.Log, claim, append(slices.Clone(l.Entries), ref.Entry)...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Verify(t.Context(), w.Verifier(), nil)
	checkError(t, err, true, "only claims it")
}

// TestCutBundleIsNotExact checks the words for an answer that was cut off.
func TestCutBundleIsNotExact(t *testing.T) {
	w := newWorld(t)
	b := w.prove(t, "forecast@2", lineage.LineageOptions{Edges: 3})
	v, err := b.Verify(t.Context(), w.Verifier(), nil)
	if err != nil || says(v.Proven, "exactly") {
		t.Errorf("proven %q, %v; a part is not exactly what the entries state", v.Proven, err)
	}
}
