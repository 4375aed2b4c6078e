package lineage_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// described states a predicate under a name, with the digest of the predicate.
func described(t *testing.T, predicateType, name string, p any) schema.Statement {
	t.Helper()
	raw, err := schema.Canonical(p)
	if err != nil {
		t.Fatal(err)
	}
	return lineagetest.Statement(t, predicateType, p, schema.Descriptor{Name: name, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()}})
}

// volume states a snapshot of the claim raw, taken so many minutes after the epoch.
func volume(t *testing.T, name, handle, policy string, minutes int, deleted bool) schema.Statement {
	t.Helper()
	const source = "csi://prod/ml/raw"
	v := &schema.VolumeSnapshot{Name: name, URI: "csi://d/" + handle, Claim: "pvc://ml/raw", Policy: policy, Deleted: deleted}
	if !deleted {
		v.Created = lineagetest.Epoch.Add(time.Duration(minutes) * time.Minute)
	}
	return described(t, schema.SnapshotV1, "snapshot:"+source+"#"+name, schema.Snapshot{Source: source, Volume: v})
}

// TestVolumes follows a model to the snapshot that the claim it was trained on was
// made from, and the claim which that was taken of.
func TestVolumes(t *testing.T) {
	log := lineagetest.New(t)
	log.Add(volume(t, "first", "snap-1", "Retain", 1, false))
	log.Add(volume(t, "second", "snap-2", "Retain", 2, false))
	log.Add(described(t, schema.ClaimV1, "claim:prod/ml/restored", schema.Claim{Cluster: "prod", Claim: "pvc://ml/restored", From: []schema.Descriptor{{Name: "first", URI: "csi://d/snap-1"}}}))
	log.Add(pipelineStep(t, "train", "pvc://ml/restored", "s3://b/model"))
	v := log.View(t)
	model := resolve(t, v, "s3://b/model")
	l := answer(t, v, "s3://b/model", lineage.LineageOptions{})
	for _, uri := range []string{"pvc://ml/restored", "csi://d/snap-1", "pvc://ml/raw"} {
		if !slices.ContainsFunc(l.Resources, func(r schema.Resource) bool { return r.Key == schema.URIKey(uri) }) {
			t.Errorf("the lineage of the model is without %s: %v", uri, edges(l))
		}
	}
	if slices.ContainsFunc(l.Resources, func(r schema.Resource) bool { return r.Key == schema.URIKey("csi://d/snap-2") }) {
		t.Errorf("a snapshot that nothing was made from is in the lineage: %v", edges(l))
	}
	down := answer(t, v, "pvc://ml/raw", lineage.LineageOptions{Direction: schema.Downstream})
	if !slices.ContainsFunc(down.Resources, func(r schema.Resource) bool { return r.Key == schema.URIKey("s3://b/model") }) {
		t.Errorf("what came of the claim is without the model: %v", edges(down))
	}
	policy := func(v *lineage.View) bool {
		t.Helper()
		found, err := v.Gaps(t.Context(), model, nil)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(found, func(g lineage.Gap) bool {
			return g.ID == "snapshot-policy-delete" && g.Key == schema.URIKey("csi://d/snap-1")
		})
	}
	if policy(v) {
		t.Error("a snapshot that is retained has the gap snapshot-policy-delete")
	}

	named := func(v *lineage.View, ref, want string) {
		t.Helper()
		r, err := v.Resolve(ref)
		if want == "" && errors.Is(err, lineage.ErrNotFound) {
			return
		}
		if err != nil || r.Start.Key != schema.URIKey(want) {
			t.Errorf("Resolve(%q) = %s, %v; want %s", ref, r.Start.Key, err, want)
		}
	}
	// Another word about the first one does not make it the newest.
	log.Add(volume(t, "first", "snap-1", "Delete", 1, false))
	v = log.View(t)
	named(v, "snapshot:csi://prod/ml/raw", "csi://d/snap-2")
	named(v, "snapshot:csi://prod/ml/raw#first", "csi://d/snap-1")
	if !policy(v) {
		t.Error("a snapshot that goes with its object has no gap snapshot-policy-delete")
	}
	log.Add(volume(t, "first", "snap-1", "", 0, true))
	v = log.View(t)
	named(v, "snapshot:csi://prod/ml/raw#first", "")
	named(v, "snapshot:csi://prod/ml/raw", "csi://d/snap-2")
}
