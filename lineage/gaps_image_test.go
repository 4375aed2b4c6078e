package lineage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestGapImages tells an image that was asked for by tag from one by digest, and
// results that an engine took again after that tag had moved from those before.
func TestGapImages(t *testing.T) {
	log := lineagetest.New(t)
	at := func(minute int) time.Time { return lineagetest.Epoch.Add(time.Duration(minute) * time.Minute) }
	const repository = "registry.example/train"
	digest := func(s string) schema.DigestSet {
		return schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(s)).Hex()}
	}
	tag := func(image string) schema.Statement {
		return lineagetest.Statement(t, schema.TagV1, schema.Tag{Repository: repository, Tag: "v1"},
			schema.Descriptor{Name: repository + ":v1", Digest: digest(image)})
	}
	image := func(name, image string) schema.Descriptor {
		d := lineagetest.As(schema.RoleImage, "", lineagetest.Image(repository, image))
		d.Name, d.Digest = name, digest(image)
		return d
	}
	reused := func(id string, minute int, of schema.Descriptor) schema.Statement {
		return lineagetest.Run{ID: id, Argv: []string{"x"}, Started: at(minute), Uses: []schema.Descriptor{lineagetest.As(schema.RoleReused, "", of)}, Makes: []schema.Descriptor{file(id)}}.Statement(t)
	}
	for _, s := range []schema.Statement{
		tag("first"),
		lineagetest.Run{ID: "tagged", Argv: []string{"x"}, Started: at(1), Uses: []schema.Descriptor{image(repository+":v1", "first")}, Makes: []schema.Descriptor{file("features")}}.Statement(t),
		lineagetest.Run{ID: "pinned", Argv: []string{"x"}, Started: at(1), Uses: []schema.Descriptor{image(repository+"@sha256:"+digest("first")[schema.SHA256], "first")}, Makes: []schema.Descriptor{file("pinned")}}.Statement(t),
		lineagetest.Run{ID: "named", Argv: []string{"x"}, Started: at(1), Uses: []schema.Descriptor{image("train-image", "first")}, Makes: []schema.Descriptor{file("named")}}.Statement(t),
		reused("soon", 5, file("features")), reused("late", 11, file("features")), reused("late, pinned", 11, file("pinned")),
		tag("second"), // entry 8, and so in minute 8
	} {
		log.Add(s)
	}
	v := log.View(t)
	for id, want := range map[string][]string{"features": {"image-by-tag"}, "pinned": nil, "named": nil, "soon": {"image-by-tag"}, "late": {"image-by-tag", "reused-moved-tag"}, "late, pinned": nil} {
		gaps, err := v.Gaps(t.Context(), resolve(t, v, ref(id)), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, g := range gaps {
			got = append(got, g.ID)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: gaps %v, want %v", id, got, want)
		}
	}
}

// TestGapSeed asks of the steps that made named models alone.
func TestGapSeed(t *testing.T) {
	log := lineagetest.New(t)
	train := func(id string, argv []string, parameters map[string]string, metrics map[string]any) {
		r := lineagetest.Run{ID: id, Argv: argv, Parameters: parameters, Metrics: metrics, Makes: []schema.Descriptor{file(id)}}
		log.Add(r.Statement(t))
		log.Add(lineagetest.Model(t, id, "1", id, file(id)))
	}
	mae := map[string]any{"mae": 1.5}
	train("without", []string{"train"}, nil, mae)
	train("packed", []string{"tar"}, nil, nil)
	train("by-parameter", []string{"train"}, map[string]string{"random_state": "7"}, mae)
	train("by-flag", []string{"train", "--seed=7"}, nil, mae)
	v := log.View(t)
	for ref, want := range map[string]bool{"without": true, "packed": false, "by-parameter": false, "by-flag": false, "run:without": false} {
		gaps, err := v.Gaps(t.Context(), resolve(t, v, ref), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.ContainsFunc(gaps, func(g lineage.Gap) bool { return g.ID == "seed-not-recorded" })
		if got != want {
			t.Errorf("%s: a gap for its seed: %v, want %v", ref, got, want)
		}
	}
}
