package graphql_test

import (
	"context"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/graphql"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// world is a ledger with a graph and an API over it.
type world struct {
	*ledgertest.World
	t     testing.TB
	graph *lineage.Graph
	api   *graphql.API
	steps int // made so far
}

func newWorld(t testing.TB, opt *graphql.Options) *world {
	t.Helper()
	w := &world{World: ledgertest.New(t), t: t}
	var err error
	if w.graph, err = lineage.Open(t.TempDir(), w.Ledger, verify.Signers, verify.Trusted); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.graph.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.api, err = graphql.New(w.graph, followed{w}, opt); err != nil {
		t.Fatal(err)
	}
	w.follow()
	return w
}

// followed is the ledger of a world, whose graph follows each append: what the
// server does in a goroutine of its own.
type followed struct{ *world }

func (f followed) Append(ctx context.Context, b schema.Batch) (schema.Receipt, error) {
	r, err := f.Ledger.Append(ctx, b)
	if err == nil {
		err = f.graph.Follow(ctx, f.Ledger)
	}
	return r, err
}

func (w *world) follow() {
	w.t.Helper()
	if err := w.graph.Follow(context.Background(), w.Ledger); err != nil {
		w.t.Fatal(err)
	}
}

// record appends statements that the observer signed, and follows them.
func (w *world) record(envelopes ...schema.Envelope) schema.Receipt {
	w.t.Helper()
	r, err := w.Append(context.Background(), schema.Batch{Source: "test", Envelopes: envelopes})
	if err != nil {
		w.t.Fatal(err)
	}
	w.follow()
	return r
}

// file describes a file with the given content.
func file(path, content string) schema.Descriptor {
	d := ledgertest.Subject(content)
	d.Name = path
	d.Annotations = map[string]any{schema.AnnotationPath: path}
	return d
}

// noon is when the stories begin.
func noon() time.Time { return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC) }

// step is provenance of a step that some other builder ran, one minute long,
// after every step before it.
func (w *world) step(run string, parameters map[string]any, uses []schema.Descriptor, made ...schema.Descriptor) schema.Envelope {
	w.t.Helper()
	began := noon().Add(time.Duration(w.steps) * time.Hour)
	w.steps++
	params, err := schema.Canonical(parameters)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.Sign(w.t, schema.ProvenanceV1, schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: "https://example.com/pipeline/v1", ExternalParameters: params, ResolvedDependencies: uses},
		RunDetails:      schema.RunDetails{Builder: schema.Builder{ID: "https://example.com/builder"}, Metadata: schema.Metadata{InvocationID: run, StartedOn: began, FinishedOn: began.Add(time.Minute)}},
	}, made...)
}

func (w *world) model(name, version, run string, made schema.Descriptor) schema.Envelope {
	return w.Sign(w.t, schema.ModelV1, schema.Model{Name: name, Version: version, Run: run}, made)
}

// story records two versions of a model, each trained by a step of its own on
// features that a step made from data. It is at size 8: genesis, two features,
// two trainings, two models, a tag.
func (w *world) story() {
	w.t.Helper()
	commit := schema.Descriptor{URI: "git+https://example.com/forecast", Digest: schema.DigestSet{schema.GitCommit: "0123456789abcdef0123456789abcdef01234567"}, Annotations: map[string]any{schema.AnnotationRole: schema.RoleCode}}
	image := file("train-image", "an image")
	image.Annotations = map[string]any{schema.AnnotationRole: schema.RoleImage, schema.AnnotationKind: "oci"}
	for _, v := range []string{"1", "2"} {
		data, features, weights := file("data.csv", "data "+v), file("features.bin", "features "+v), file("weights.bin", "weights "+v)
		used := features
		used.Annotations = map[string]any{schema.AnnotationPath: "features.bin", schema.AnnotationProducer: "prepare-" + v}
		w.record(
			w.step("prepare-"+v, map[string]any{"window": 24}, []schema.Descriptor{commit, data}, features),
			w.step("train-"+v, map[string]any{"rate": "0." + v}, []schema.Descriptor{commit, image, used}, weights),
			w.model("forecast", v, "train-"+v, weights),
		)
	}
	w.record(w.Sign(w.t, schema.TagV1, schema.Tag{Repository: "registry.example/train", Tag: "stable"}, ledgertest.Subject("an image")))
}
