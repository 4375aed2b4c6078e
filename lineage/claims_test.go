package lineage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestClaimsMoveNoNames hands in, unsigned, what would move every kind of name
// to other bytes.
func TestClaimsMoveNoNames(t *testing.T) {
	log := lineagetest.New(t)
	stranger := lineagetest.Key(t, 9)
	good, evil := lineagetest.File("model.json", "good"), lineagetest.File("model.json", "evil")
	at := func(content string) schema.Statement {
		d := lineagetest.File("data", content)
		d.URI = "s3://bucket/data"
		return lineagetest.Statement(t, "https://example.org/seen/v1", map[string]string{"by": content}, d)
	}
	log.AddUnsigned(at("good")) // claimed first, then observed to be so
	log.Add(at("good"))
	log.Add(lineagetest.Model(t, "forecast", "3", "run-3", good))
	log.Add(branch(t, "repo", "main", "good"))
	log.Add(tag(t, "v1", "good", false))

	log.AddUnsigned(lineagetest.Model(t, "forecast", "3", "run-3", evil))
	log.AddBy(stranger, lineagetest.Model(t, "forecast", "99", "run-99", evil))
	log.AddUnsigned(branch(t, "repo", "main", "evil"))
	log.AddUnsigned(branch(t, "another", "main", "evil"))
	log.AddUnsigned(tag(t, "v1", "evil", true))
	log.AddUnsigned(lineagetest.Model(t, "unheard", "1", "run-1", evil))
	log.AddUnsigned(at("evil"))
	v := log.View(t)

	for ref, want := range map[string]schema.Key{
		"forecast@3":               lineagetest.FileKey("good"),
		"forecast":                 lineagetest.FileKey("good"),
		"git:main":                 lineagetest.CommitKey("good"),
		"image:reg.example/app:v1": lineagetest.FileKey("good"),
		"s3://bucket/data":         lineagetest.FileKey("good"),
		"unheard":                  lineagetest.FileKey("evil"), // nobody knows better
	} {
		if got, err := v.Resolve(ref); err != nil || got.Start.Key != want {
			t.Errorf("Resolve(%s) = %v, %v; want %v", ref, got.Start.Key, err, want)
		}
	}
	history, err := v.History("model:forecast@3")
	if err != nil || len(history) != 2 || history[0].Evidence != schema.Observed || history[1].Evidence != schema.Claimed {
		t.Errorf("History = %v, %v; want the observed naming and the claimed one, each graded", history, err)
	}

	// Trusting the stranger's key from some entry on decides from there on.
	before := log.Size()
	log.Add(lineagetest.Trust(t, stranger, nil))
	g := log.Graph(t)
	for size, want := range map[int64]schema.Key{before: lineagetest.FileKey("good"), 0: lineagetest.FileKey("evil")} {
		v, err := g.View(lineage.At{Size: size})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := v.Resolve("forecast"); err != nil || got.Start.Key != want {
			t.Errorf("at size %d Resolve(forecast) = %v, %v; want %v", size, got.Start.Key, err, want)
		}
	}
}

// TestClaimedRunID claims, unsigned, a step under the ID of an observed run,
// with other inputs.
func TestClaimedRunID(t *testing.T) {
	log := lineagetest.New(t)
	run := func(input string) schema.Statement {
		return lineagetest.Run{
			ID: "0123456789", Argv: []string{"train"}, Started: lineagetest.Epoch, Took: time.Second,
			Uses: []schema.Descriptor{lineagetest.File("in", input)}, Makes: []schema.Descriptor{lineagetest.File("model", "bytes")},
		}.Statement(t)
	}
	early := log.AddUnsigned(run("evil"))
	real := log.Add(run("good"))
	log.AddUnsigned(run("worse"))
	log.Add(lineagetest.Model(t, "forecast", "1", "0123456789", lineagetest.File("model", "bytes")))
	v := log.View(t)
	ref, err := v.Resolve("forecast@1")
	if err != nil {
		t.Fatal(err)
	}
	var to []schema.Key
	for e, err := range schema.Walk(t.Context(), v, ref.Start, schema.WalkOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		to = append(to, e.To)
		if e.Ambiguous || e.Step != real {
			t.Errorf("edge %+v; want it from step %d, not ambiguous", e, real)
		}
	}
	if !slices.Equal(to, []schema.Key{lineagetest.FileKey("good")}) {
		t.Errorf("the model was made from %v; want what the observed run used", to)
	}
	if ref, err := v.Resolve("run:0123456789"); err != nil || ref.Entry != real {
		t.Errorf("Resolve(run:) = entry %d, %v; want %d, not the claim in entry %d", ref.Entry, err, real, early)
	}
}

// TestTrustIsNotReplayed hands in the envelope that trusted a key again, after
// the key was revoked.
func TestTrustIsNotReplayed(t *testing.T) {
	log := lineagetest.New(t)
	key := lineagetest.Key(t, 9)
	trust, err := log.Observer.SignStatement(lineagetest.Trust(t, key, nil))
	if err != nil {
		t.Fatal(err)
	}
	log.AddEnvelope(trust, schema.DefaultNamespace)
	log.Add(lineagetest.Trust(t, key, func(p *schema.Trust) { p.Action, p.NotAfter = "revoke", lineagetest.Epoch }))
	log.AddEnvelope(trust, "elsewhere")
	made := log.AddBy(key, branch(t, "repo", "main", "evil"))
	if e, err := log.View(t).Entry(made); err != nil || e.Evidence != schema.Claimed {
		t.Errorf("what the revoked key signed is %s, %v; want claimed", e.Evidence, err)
	}
}
