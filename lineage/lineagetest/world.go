package lineagetest

import (
	"crypto/sha1"
	"encoding/hex"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
)

// Statement builds a statement.
func Statement(t testing.TB, predicateType string, predicate any, subjects ...schema.Descriptor) schema.Statement {
	t.Helper()
	s, err := schema.NewStatement(predicateType, predicate, subjects...)
	check(t, err)
	return s
}

// File describes a file with the given content.
func File(name, content string) schema.Descriptor {
	return schema.Descriptor{Name: name, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(content)).Hex()}}
}

// FileKey is the key of a file with the given content.
func FileKey(content string) schema.Key { return schema.BytesKey([]byte(content)) }

// CommitHex is the ID of the commit that tests call name.
func CommitHex(name string) string {
	sum := sha1.Sum([]byte(name))
	return hex.EncodeToString(sum[:])
}

// CommitOf describes the commit that tests call name.
func CommitOf(name, repository string) schema.Descriptor {
	return schema.Descriptor{Name: repository, URI: "git+https://example.org/" + repository, Digest: schema.DigestSet{schema.GitCommit: CommitHex(name)}}
}

// CommitKey is its key.
func CommitKey(name string) schema.Key { return schema.Key(schema.GitCommit + ":" + CommitHex(name)) }

// Image describes an image whose manifest tests call content.
func Image(name, content string) schema.Descriptor {
	d := File(name, content)
	d.Annotations = map[string]any{schema.AnnotationKind: "oci"}
	return d
}

// As gives a descriptor the role and path of a use.
func As(role, path string, d schema.Descriptor) schema.Descriptor {
	return annotate(d, schema.AnnotationRole, role, schema.AnnotationPath, path)
}

// From names the run that made a use.
func From(run string, d schema.Descriptor) schema.Descriptor {
	return annotate(d, schema.AnnotationProducer, run)
}

func annotate(d schema.Descriptor, pairs ...string) schema.Descriptor {
	m := map[string]any{}
	for k, v := range d.Annotations {
		m[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			m[pairs[i]] = pairs[i+1]
		}
	}
	d.Annotations = m
	return d
}

// Run is a step as `retrace run` records it.
type Run struct {
	ID         string
	Argv       []string
	Parameters map[string]string
	Secrets    []string
	Exit       int
	Metrics    map[string]any
	Gaps       []schema.GapFact
	Parent     string
	Started    time.Time
	Took       time.Duration
	Uses       []schema.Descriptor
	Makes      []schema.Descriptor
}

// Statement is the provenance statement of the run.
func (r Run) Statement(t testing.TB) schema.Statement {
	t.Helper()
	value := func(v any) jsontext.Value {
		raw, err := schema.Canonical(v)
		check(t, err)
		return raw
	}
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{
			BuildType:            schema.RunBuildType,
			ExternalParameters:   value(schema.RunParameters{Argv: r.Argv, Dir: ".", Parameters: r.Parameters, Secrets: r.Secrets, Parent: r.Parent, Platform: "linux/amd64"}),
			ResolvedDependencies: r.Uses,
		},
		RunDetails: schema.RunDetails{
			Builder:    schema.Builder{ID: schema.RunBuilder},
			Metadata:   schema.Metadata{InvocationID: r.ID, StartedOn: r.Started, FinishedOn: r.Started.Add(r.Took)},
			Byproducts: []schema.Descriptor{{Name: schema.ByproductExit, Content: value(r.Exit)}},
		},
	}
	if len(r.Metrics) > 0 {
		p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, schema.Descriptor{Name: schema.ByproductMetrics, Content: value(r.Metrics)})
	}
	if len(r.Gaps) > 0 {
		p.RunDetails.Byproducts = append(p.RunDetails.Byproducts, schema.Descriptor{Name: schema.ByproductGaps, Content: value(r.Gaps)})
	}
	subject, err := schema.RunSubject(r.ID, p)
	check(t, err)
	return Statement(t, schema.ProvenanceV1, p, append([]schema.Descriptor{subject}, r.Makes...)...)
}

// Watch is the step of the run id as a watcher records it.
func Watch(t testing.TB, id string, params schema.StepParameters, uses, makes []schema.Descriptor) schema.Statement {
	t.Helper()
	params.Engine, params.Task = "test", id
	external, err := schema.Canonical(params)
	check(t, err)
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: external, ResolvedDependencies: uses},
		RunDetails:      schema.RunDetails{Builder: schema.Builder{ID: "https://example.org/test"}, Metadata: schema.Metadata{InvocationID: id}},
	}
	subject, err := schema.RunSubject(id, p)
	check(t, err)
	return Statement(t, schema.ProvenanceV1, p, append([]schema.Descriptor{subject}, makes...)...)
}

// Model names a version of a model.
func Model(t testing.TB, name, version, run string, file schema.Descriptor) schema.Statement {
	t.Helper()
	return Statement(t, schema.ModelV1, schema.Model{Name: name, Version: version, Run: run}, file)
}

// Trust says that a key is trusted.
func Trust(t testing.TB, key *keys.Private, change func(*schema.Trust)) schema.Statement {
	t.Helper()
	pem, err := key.PublicPEM()
	check(t, err)
	p := schema.Trust{Action: "trust", KeyID: key.ID(), Key: pem}
	if change != nil {
		change(&p)
	}
	return Statement(t, schema.TrustV1, p, schema.Descriptor{Name: key.ID(), Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(pem)).Hex()}})
}

// TrustIdentity says that an identity is trusted.
func TrustIdentity(t testing.TB, who *schema.Identity, change func(*schema.Trust)) schema.Statement {
	t.Helper()
	p := schema.Trust{Action: "trust", KeyID: who.ID(), Identity: who}
	if change != nil {
		change(&p)
	}
	raw, err := schema.Canonical(who)
	check(t, err)
	return Statement(t, schema.TrustV1, p, schema.Descriptor{Name: "identity " + who.Subject, Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()}})
}

// Forecast writes a small world into the log: a data set, three steps on one
// commit, a model in two versions of which the second has other data, and an
// image that is claimed to be built of the commit. It is what golden files
// show. It returns the index of the first entry of each version's model.
func Forecast(t testing.TB, l *Log) (v1, v2 int64) {
	t.Helper()
	commit := CommitOf("first", "forecast")
	l.Add(Statement(t, schema.CommitV1, schema.Commit{
		Tree: CommitHex("tree"), Author: schema.Person{Name: "Ada", Email: "ada@example.org", When: Epoch},
		Committer: schema.Person{Name: "Ada", Email: "ada@example.org", When: Epoch}, Message: "Train on weather",
	}, commit))
	l.Add(Statement(t, schema.ImageV1, schema.Image{
		Repository: "registry.example/train", MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 500, Platform: "linux/amd64",
		Labels: map[string]string{
			"org.opencontainers.image.revision": CommitHex("first"), "org.opencontainers.image.source": "https://example.org/forecast",
			"org.opencontainers.image.base.digest": string(FileKey("python image")), "org.opencontainers.image.base.name": "python:3.12-slim",
		},
	}, Image("registry.example/train", "train image")))
	v1 = forecastVersion(t, l, commit, "1", "weather until February", 0)
	v2 = forecastVersion(t, l, commit, "2", "weather until March", time.Hour)
	return v1, v2
}

func forecastVersion(t testing.TB, l *Log, commit schema.Descriptor, version, data string, later time.Duration) int64 {
	t.Helper()
	at := Epoch.Add(-2 * time.Hour).Add(later)
	tool := As(schema.RoleTool, "", File("python3.12", "python"))
	clean, features, model := "clean "+data, "features "+data, "model "+data
	code := As(schema.RoleCode, "", commit)
	l.Add(Run{
		ID: "prepare-" + version, Argv: []string{"python", "prepare.py", "--drop-missing"}, Started: at, Took: 1300 * time.Millisecond,
		Uses:  []schema.Descriptor{code, tool, As(schema.RoleInput, "data/weather.csv", File("weather.csv", data))},
		Makes: []schema.Descriptor{File("work/clean.csv", clean)},
	}.Statement(t))
	l.Add(Run{
		ID: "features-" + version, Argv: []string{"python", "features.py"}, Started: at.Add(time.Minute), Took: 240 * time.Millisecond,
		Parameters: map[string]string{"lags": "7"},
		Uses: []schema.Descriptor{
			code, tool, As(schema.RoleInput, "work/clean.csv", From("prepare-"+version, File("clean.csv", clean))),
			As(schema.RoleInput, "", schema.Descriptor{Name: "holidays", URI: "s3://public/holidays.csv"}),
		},
		Makes: []schema.Descriptor{File("work/features.csv", features)},
		Gaps:  []schema.GapFact{{Rule: "dirty-tree", Detail: "features.py"}},
	}.Statement(t))
	l.Add(Run{
		ID: "train-" + version, Argv: []string{"python", "train.py", "--epochs", "3"}, Started: at.Add(2 * time.Minute), Took: 95 * time.Second,
		Parameters: map[string]string{"epochs": "3", "seed": "42"}, Metrics: map[string]any{"mae": 0.31, "rmse": 0.52},
		Uses: []schema.Descriptor{
			code, tool, As(schema.RoleImage, "", Image("registry.example/train", "train image")),
			As(schema.RoleInput, "work/features.csv", From("features-"+version, File("features.csv", features))),
			As(schema.RoleInput, "work/clean.csv", From("prepare-"+version, File("clean.csv", clean))),
		},
		Makes: []schema.Descriptor{File("model.json", model)},
	}.Statement(t))
	return l.Add(Model(t, "forecast", version, "train-"+version, File("model.json", model)))
}
