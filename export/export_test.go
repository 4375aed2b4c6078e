package export_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/retrace-ledger/retrace/export"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

var update = flag.Bool("update", false, "write what was got as what is wanted")

// story is a ledger with a model that two steps made, of data, a commit, an image
// with a base that a label claims, and a location without a digest.
func story(t *testing.T) (*lineagetest.Log, *export.Answer) {
	t.Helper()
	log := lineagetest.New(t)
	commit := schema.Descriptor{URI: "git+https://git.example/models", Digest: schema.DigestSet{schema.GitCommit: strings.Repeat("a1", 20)}, Annotations: map[string]any{schema.AnnotationRole: schema.RoleCode}}
	image := lineagetest.As(schema.RoleImage, "", lineagetest.Image("registry.example/train", "an image"))
	features := lineagetest.File("features <1>.csv", "features")
	weights := lineagetest.File("weights.bin", "weights")
	weights.Digest["sha512"] = strings.Repeat("cd", 64)
	weights.MediaType = "application/octet-stream; charset=binary"
	log.Add(lineagetest.Statement(t, schema.ImageV1, schema.Image{Repository: "registry.example/train", MediaType: "m", Labels: map[string]string{"org.opencontainers.image.base.digest": string(lineagetest.FileKey("a base"))}}, lineagetest.Image("registry.example/train", "an image")))
	log.Add(lineagetest.Run{ID: "prepare-1", Argv: []string{"python", "prepare.py"}, Uses: []schema.Descriptor{commit, lineagetest.As(schema.RoleInput, "data.csv", lineagetest.File("data.csv", "data")),
		{Name: "raw", URI: "s3://bucket/raw", Annotations: map[string]any{schema.AnnotationRole: schema.RoleInput}}}, Makes: []schema.Descriptor{features}}.Statement(t))
	log.AddUnsigned(lineagetest.Run{ID: "train-1", Argv: []string{"python", "train.py"}, Uses: []schema.Descriptor{commit, image, lineagetest.As(schema.RoleInput, "features <1>.csv", features)}, Makes: []schema.Descriptor{weights}}.Statement(t))
	log.Add(lineagetest.Model(t, "forecast", "1", "train-1", weights))
	v := log.View(t)
	ref, err := v.Resolve("forecast")
	if err != nil {
		t.Fatal(err)
	}
	l, err := v.Lineage(t.Context(), ref, lineage.LineageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return log, &export.Answer{Origin: "example.com/log", Lineage: l, Metrics: map[string]any{"mae": 1.25, "note": "a <text>"}}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got); run with -update if it was meant to change:\n%s", name, diff)
	}
}

func TestPROV(t *testing.T) {
	_, a := story(t)
	var b, again bytes.Buffer
	if err := export.PROV(&b, a); err != nil {
		t.Fatal(err)
	}
	if err := export.PROV(&again, a); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("the same answer gives other bytes, %v", err)
	}
	golden(t, "forecast.prov.json", b.Bytes())
	// Every relation joins what the document has.
	var doc map[string]map[string]map[string]any
	if err := json.Unmarshal(bytes.Replace(b.Bytes(), []byte(`"prefix"`), []byte(`"ignored"`), 1), &doc); err == nil {
		t.Fatal("prefixes are no objects")
	}
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(b.Bytes(), &whole); err != nil {
		t.Fatal(err)
	}
	delete(whole, "prefix")
	parts := map[string]map[string]map[string]any{}
	for name, raw := range whole {
		var part map[string]map[string]any
		if err := json.Unmarshal(raw, &part); err != nil {
			t.Fatal(err)
		}
		parts[name] = part
	}
	ends := map[string]string{
		"prov:entity": "entity", "prov:activity": "activity", "prov:agent": "agent", "prov:generatedEntity": "entity", "prov:usedEntity": "entity",
		"prov:alternate1": "entity", "prov:alternate2": "entity", "prov:collection": "entity",
	}
	for name, part := range parts {
		for id, attributes := range part {
			for attribute, kind := range ends {
				if v, ok := attributes[attribute].(string); ok && parts[kind][v] == nil {
					t.Errorf("%s %s names the %s %s, which is not there", name, id, kind, v)
				}
			}
		}
	}
}

func TestCycloneDX(t *testing.T) {
	_, a := story(t)
	var b bytes.Buffer
	if err := export.CycloneDX(&b, a); err != nil {
		t.Fatal(err)
	}
	golden(t, "forecast.cdx.json", b.Bytes())
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	s := bomSchema(t)
	if err := s.Validate(doc); err != nil {
		t.Errorf("CycloneDX 1.6: %v", err)
	}
	// The schema is one that refuses.
	doc.(map[string]any)["metadata"].(map[string]any)["component"].(map[string]any)["type"] = "model"
	if s.Validate(doc) == nil {
		t.Error("the schema takes a component of type model")
	}
}

// bomSchema is the official schema of CycloneDX 1.6, as the library comes with it.
func bomSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	for url, name := range map[string]string{
		"http://cyclonedx.org/schema/bom-1.6.schema.json": "bom-1.6.schema.json", "http://cyclonedx.org/schema/spdx.schema.json": "spdx.schema.json",
		"http://cyclonedx.org/schema/jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "schema", name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		doc, err := jsonschema.UnmarshalJSON(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSLSA gives the envelopes that were recorded, each on a line, so that they
// can be recorded elsewhere.
func TestSLSA(t *testing.T) {
	log, a := story(t)
	var b bytes.Buffer
	if left, err := export.SLSA(t.Context(), &b, a, log.Entry); err != nil || left != 0 {
		t.Fatalf("%d left out, %v", left, err)
	}
	docs, err := schema.ParseDocument(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != len(a.Lineage.Steps) || bytes.Count(b.Bytes(), []byte("\n")) != len(docs) {
		t.Fatalf("%d documents of %d steps:\n%s", len(docs), len(a.Lineage.Steps), b.Bytes())
	}
	for i, s := range a.Lineage.Steps {
		e, err := log.Entry(t.Context(), s.Entry)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(docs[i].Envelope.Payload, e.Envelope.Payload) {
			t.Errorf("line %d is not the provenance of step %d", i, s.Entry)
		}
	}
	// What is gone is counted, and an envelope of several lines is put on one.
	gone := func(ctx context.Context, index int64) (schema.Entry, error) {
		e, err := log.Entry(ctx, index)
		if index == a.Lineage.Steps[0].Entry {
			e.State = schema.Erased
		}
		e.Envelope.Raw = append([]byte("\n"), e.Envelope.Raw...)
		return e, err
	}
	b.Reset()
	if left, err := export.SLSA(t.Context(), &b, a, gone); err != nil || left != 1 || bytes.Count(b.Bytes(), []byte("\n")) != 1 {
		t.Errorf("%d left out, %v:\n%s", left, err, b.Bytes())
	}
}
