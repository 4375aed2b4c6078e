package schema

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	generate "github.com/invopop/jsonschema"
	validate "github.com/santhosh-tekuri/jsonschema/v6"
)

// described are the documents that have a JSON Schema in json/, by name, each
// with its predicate type where it is one.
var described = []struct {
	name          string
	predicateType string
	value         any
}{
	{"attestation-v1", AttestationV1, Attestation{}},
	{"claim-v1", ClaimV1, Claim{}},
	{"commit-v1", CommitV1, Commit{}},
	{"config-v1", ConfigV1, Config{}},
	{"coverage-v1", CoverageV1, Coverage{}},
	{"deployment-v1", DeploymentV1, Deployment{}},
	{"erasure-v1", ErasureV1, Erasure{}},
	{"genesis-v1", GenesisV1, Genesis{}},
	{"image-v1", ImageV1, Image{}},
	{"model-signature-v1", ModelSignatureV1, ModelSignature{}},
	{"model-v1", ModelV1, Model{}},
	{"pins-v1", PinsV1, Pins{}},
	{"ref-v1", RefV1, Ref{}},
	{"release-v1", ReleaseV1, Release{}},
	{"reproduction-v1", ReproductionV1, Reproduction{}},
	{"restore-v1", RestoreV1, Restore{}},
	{"retraction-v1", RetractionV1, Retraction{}},
	{"run-parameters-v1", "", RunParameters{}},
	{"signature-v1", SignatureV1, ImageSignature{}},
	{"snapshot-v1", SnapshotV1, Snapshot{}},
	{"step-parameters-v1", "", StepParameters{}},
	{"taking-v1", TakingV1, Taking{}},
	{"tag-v1", TagV1, Tag{}},
	{"trust-v1", TrustV1, Trust{}},
}

// narrow says of a field what its Go type does not: the same as check says of
// it.
var narrow = map[string]func(*generate.Schema){
	"Attestation.claim":             nonEmpty,
	"Blob.diffID":                   pattern(`^[A-Za-z0-9_]+:[0-9a-f]+$`),
	"Blob.digest":                   pattern(`^[A-Za-z0-9_]+:[0-9a-f]+$`),
	"Claim.claim":                   pattern(`^pvc://`),
	"Claim.cluster":                 nonEmpty,
	"Claim.previous":                pattern(`^[0-9a-f]{64}$`),
	"Commit.leftOut":                minimum("0"),
	"Commit.parents":                items(pattern(`^([0-9a-f]{40}|[0-9a-f]{64})$`)),
	"Commit.pins":                   atMost(MaxPins),
	"Commit.tree":                   pattern(`^([0-9a-f]{40}|[0-9a-f]{64})$`),
	"Config.previous":               pattern(`^[0-9a-f]{64}$`),
	"Config.setting":                nonEmpty,
	"Coverage.count":                minimum("0"),
	"Coverage.leftOut":              minimum("0"),
	"Coverage.previous":             pattern(`^[0-9a-f]{64}$`),
	"Coverage.recorded":             minimum("0"),
	"Coverage.refused":              atMost(MaxRefused),
	"Coverage.source":               nonEmpty,
	"Deployment.previous":           pattern(`^[0-9a-f]{64}$`),
	"Deployment.workload":           pattern(`^[^/]*/[^/]*/[^/]*/[^/]*$`),
	"Erasure.index":                 minimum("1"),
	"Erasure.reason":                nonEmpty,
	"Erasure.resources":             func(s *generate.Schema) { items(nonEmpty)(s); atMost(MaxSubjects)(s) },
	"Genesis.format":                func(s *generate.Schema) { s.Const = 1 },
	"Genesis.logKey":                nonEmpty,
	"Genesis.observerKey":           nonEmpty,
	"Genesis.origin":                nonEmpty,
	"Identity.issuer":               nonEmpty,
	"Identity.subject":              nonEmpty,
	"Identity.trustedRoot":          nonEmpty,
	"Image.config":                  pattern(`^[A-Za-z0-9_]+:[0-9a-f]+$`),
	"Image.mediaType":               nonEmpty,
	"Image.repository":              nonEmpty,
	"Image.size":                    minimum("0"),
	"ImageSignature.payload":        pattern(`^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$`),
	"ImageSignature.signature":      nonEmpty,
	"IndexedManifest.digest":        pattern(`^[A-Za-z0-9_]+:[0-9a-f]+$`),
	"Model.name":                    pattern(`^[^/.@:# \t\n=][^@:# \t\n=]*$`),
	"Model.previous":                pattern(`^[0-9a-f]{64}$`),
	"Model.version":                 pattern(`^[^@ \t\n]+$`),
	"ModelResource.algorithm":       nonEmpty,
	"ModelResource.digest":          pattern(`^([0-9a-f]{2})+$`),
	"ModelResource.name":            pattern(`^[^/]`),
	"ModelSerialization.hash_type":  nonEmpty,
	"ModelSerialization.method":     enum("files", "shards"),
	"ModelSignature.resources":      func(s *generate.Schema) { one := uint64(1); s.MinItems = &one; atMost(MaxSubjects)(s) },
	"Pins.format":                   enum(PinsDVC, PinsKustomize, PinsKubernetes, PinsKFP),
	"Pins.leftOut":                  minimum("0"),
	"Pins.pins":                     func(s *generate.Schema) { atMost(MaxPins)(s); one := uint64(1); s.MinItems = &one },
	"Ref.old":                       pattern(`^([0-9a-f]{40}|[0-9a-f]{64})$`),
	"Ref.previous":                  pattern(`^[0-9a-f]{64}$`),
	"Ref.ref":                       pattern(`^(refs/|HEAD$)`),
	"Ref.repository":                nonEmpty,
	"Ref.tag":                       pattern(`^([0-9a-f]{40}|[0-9a-f]{64})$`),
	"Refusal.digest":                pattern(`^[A-Za-z0-9_]+:[0-9a-f]+$`),
	"Refusal.object":                nonEmpty,
	"Refusal.reason":                nonEmpty,
	"Release.previous":              pattern(`^[0-9a-f]{64}$`),
	"Release.rules":                 nonEmpty,
	"Release.source":                nonEmpty,
	"Reproduction.verdict":          enum(BitExact, Diverged, NotReplayable),
	"Restore.result":                enum("COMPLETE", "INCOMPLETE"),
	"Retraction.index":              minimum("1"),
	"Retraction.reason":             nonEmpty,
	"RunParameters.argv":            func(s *generate.Schema) { one := uint64(1); s.MinItems = &one },
	"Signer.keyID":                  nonEmpty,
	"Snapshot.bytes":                minimum("0"),
	"Snapshot.count":                minimum("0"),
	"Snapshot.durability":           enum(SameDisk, OtherDisk, Remote),
	"Snapshot.previous":             pattern(`^[0-9a-f]{64}$`),
	"Snapshot.source":               nonEmpty,
	"SnapshotFile.path":             pattern(`^[^/]`),
	"SnapshotFile.sha256":           pattern(`^[0-9a-f]{64}$`),
	"SnapshotFile.size":             minimum("0"),
	"SnapshotFile.type":             enum("file", "folder", "link"),
	"StepParameters.engine":         nonEmpty,
	"StepParameters.status":         nonEmpty,
	"Tag.old":                       pattern(`^[A-Za-z0-9_]+:[0-9a-f]+$`),
	"Tag.previous":                  pattern(`^[0-9a-f]{64}$`),
	"Tag.repository":                nonEmpty,
	"Tag.tag":                       nonEmpty,
	"Taking.action":                 enum(TakingTake, TakingDelete),
	"Taking.claim":                  pattern(`^pvc://`),
	"Taking.name":                   pattern(`^[^/]*/[^/]*$`),
	"Taking.owner":                  nonEmpty,
	"Taking.reason":                 nonEmpty,
	"Taking.source":                 nonEmpty,
	"Taking.uid":                    nonEmpty,
	"Trust.action":                  enum("trust", "revoke", "recognize", "rotate"),
	"Trust.key":                     nonEmpty,
	"Trust.keyID":                   nonEmpty,
	"Trust.role":                    enum(RoleLog, RoleObserver),
	"VolumeSnapshot.deletionPolicy": enum(PolicyRetain, PolicyDelete),
	"VolumeSnapshot.name":           nonEmpty,
	"VolumeSnapshot.pods":           atMost(MaxMounts),
}

func pattern(p string) func(*generate.Schema) { return func(s *generate.Schema) { s.Pattern = p } }
func minimum(n string) func(*generate.Schema) {
	return func(s *generate.Schema) { s.Minimum = json.Number(n) }
}
func items(f func(*generate.Schema)) func(*generate.Schema) {
	return func(s *generate.Schema) { f(s.Items) }
}
func enum(values ...any) func(*generate.Schema) { return func(s *generate.Schema) { s.Enum = values } }

func atMost(n uint64) func(*generate.Schema) { return func(s *generate.Schema) { s.MaxItems = &n } }

func nonEmpty(s *generate.Schema) { one := uint64(1); s.MinLength = &one }

const schemaBase = "https://github.com/retrace-ledger/retrace/schema/json/"

// generateSchema derives the JSON Schema of v from its Go type, and the
// descriptions from the comments in this package.
func generateSchema(t *testing.T, name string, v any) []byte {
	t.Helper()
	r := &generate.Reflector{ExpandedStruct: true, Mapper: mapType}
	if err := r.AddGoComments("github.com/retrace-ledger/retrace/schema", "."); err != nil {
		t.Fatal(err)
	}
	s := r.Reflect(v)
	s.ID = generate.ID(schemaBase + name + ".schema.json")
	s.Title = "retrace " + strings.TrimSuffix(name, "-v1") + ", version 1"
	for typ, def := range s.Definitions {
		narrowFields(typ, def)
	}
	narrowFields(reflect.TypeOf(v).Name(), s)
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(raw, '\n')
}

// mapType gives digests the form that every digest set has.
func mapType(t reflect.Type) *generate.Schema {
	if t != reflect.TypeFor[DigestSet]() {
		return nil
	}
	return &generate.Schema{
		Type:                 "object",
		AdditionalProperties: &generate.Schema{Type: "string", Pattern: "^[0-9a-f]+$"},
	}
}

func narrowFields(typ string, s *generate.Schema) {
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		if f, ok := narrow[typ+"."+p.Key]; ok {
			f(p.Value)
		}
	}
}

func TestJSONSchemas(t *testing.T) {
	for _, d := range described {
		file := filepath.Join("json", d.name+".schema.json")
		got := generateSchema(t, d.name, d.value)
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
			t.Errorf("%s is not what the Go type says; run go test ./schema -update (-file +type):\n%s", file, diff)
		}
	}
	files, err := filepath.Glob("json/*.schema.json")
	if err != nil || len(files) != len(described) {
		t.Errorf("json/ holds %d schemas (error %v), want %d", len(files), err, len(described))
	}
}

// TestNarrowNamesFields finds rules for fields that are no more.
func TestNarrowNamesFields(t *testing.T) {
	known := map[string]bool{}
	for _, d := range described {
		collectFields(reflect.TypeOf(d.value), known)
	}
	for field := range narrow {
		if !known[field] {
			t.Errorf("narrow has a rule for %s, which no described type has", field)
		}
	}
}

func collectFields(typ reflect.Type, known map[string]bool) {
	switch typ.Kind() {
	case reflect.Slice, reflect.Pointer, reflect.Map:
		collectFields(typ.Elem(), known)
	case reflect.Struct:
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			key := typ.Name() + "." + name
			if known[key] {
				return
			}
			known[key] = true
			collectFields(typ.Field(i).Type, known)
		}
	}
}

// compiled returns a JSON Schema of json/ as another implementation reads it.
func compiled(t *testing.T, name string) *validate.Schema {
	t.Helper()
	file, err := os.Open(filepath.Join("json", name+".schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	doc, err := validate.UnmarshalJSON(file)
	if err != nil {
		t.Fatal(err)
	}
	c := validate.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(schemaBase+name+".schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(schemaBase + name + ".schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchemasAgreeWithDecoding feeds each example, and the example with each
// of its fields made wrong, to the JSON Schema and to our own decoding. What
// the schema takes, decoding takes.
func TestSchemasAgreeWithDecoding(t *testing.T) {
	for _, d := range described {
		if d.predicateType == "" {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			s := compiled(t, d.name)
			statement := example(t, d.predicateType)
			good := parseAny(t, statement.Predicate)
			if err := s.Validate(good); err != nil {
				t.Errorf("the schema refuses the example: %v", err)
			}
			shown := map[string]bool{}
			for _, e := range allExamples(t) {
				if e.PredicateType != d.predicateType {
					continue
				}
				doc := parseAny(t, e.Predicate)
				if err := s.Validate(doc); err != nil {
					t.Errorf("the schema refuses an example: %v", err)
				}
				for name := range doc.(map[string]any) {
					shown[name] = true
				}
			}
			for _, name := range fieldsOf(reflect.TypeOf(d.value)) {
				if !shown[name] {
					t.Errorf("no example of %s shows the field %s", d.name, name)
				}
			}
			for name := range good.(map[string]any) {
				for _, wrong := range []any{nil, 1.5, "", "\x00", []any{}, map[string]any{"x": 1.0}, true} {
					tryWrong(t, s, statement, name, wrong)
				}
			}
			tryWrong(t, s, statement, "unknown", "x")
		})
	}
}

// tryWrong sets one field of the statement's predicate and holds the schema's
// opinion against ours.
func tryWrong(t *testing.T, s *validate.Schema, statement Statement, field string, wrong any) {
	t.Helper()
	doc := parseAny(t, statement.Predicate).(map[string]any)
	doc[field] = wrong
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	changed := statement
	changed.Predicate = raw
	_, ours := changed.Facts()
	theirs := s.Validate(parseAny(t, raw))
	if ours != nil && theirs == nil && !lessStrict[statement.PredicateType[len(predicateBase):]+"."+field] {
		t.Errorf("%s = %#v: the schema takes it, decoding says: %v", field, wrong, ours)
	}
}

// lessStrict are the fields of which decoding knows more than a JSON Schema
// can say: clocks that agree, a folder's digest that is that of its files.
var lessStrict = map[string]bool{
	"snapshot/v1.files": true,
}

func fieldsOf(typ reflect.Type) []string {
	var names []string
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestRunParametersSchema holds the example of a run to its schema, which has
// every field.
func TestRunParametersSchema(t *testing.T) {
	var p Provenance
	if err := DecodePredicate(example(t, ProvenanceV1), true, &p); err != nil {
		t.Fatal(err)
	}
	parameters := parseAny(t, p.BuildDefinition.ExternalParameters)
	if err := compiled(t, "run-parameters-v1").Validate(parameters); err != nil {
		t.Error(err)
	}
	for _, name := range fieldsOf(reflect.TypeFor[RunParameters]()) {
		if _, ok := parameters.(map[string]any)[name]; !ok {
			t.Errorf("the example does not show the field %s", name)
		}
	}
}

func parseAny(t *testing.T, raw []byte) any {
	t.Helper()
	v, err := validate.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return v
}
