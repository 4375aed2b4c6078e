package lineage_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

// tag says that an image's tag points at content.
func tag(t *testing.T, name, content string, deleted bool) schema.Statement {
	t.Helper()
	return lineagetest.Statement(t, schema.TagV1, schema.Tag{Repository: "reg.example/app", Tag: name, Deleted: deleted}, lineagetest.Image("reg.example/app", content))
}

func branch(t *testing.T, repository, name, commit string) schema.Statement {
	t.Helper()
	return lineagetest.Statement(t, schema.RefV1, schema.Ref{Repository: repository, Ref: "refs/heads/" + name}, lineagetest.CommitOf(commit, repository))
}

func TestNameHistory(t *testing.T) {
	log := lineagetest.New(t)
	a1 := log.Add(tag(t, "v1", "A", false))
	b := log.Add(tag(t, "v1", "B", false))
	env, err := log.Observer.SignStatement(tag(t, "v1", "A", false)) // A again: another fact, said in another entry
	if err != nil {
		t.Fatal(err)
	}
	a2 := log.AddEnvelope(env, schema.DefaultNamespace)
	gone := log.Add(tag(t, "v1", "A", true))
	g := log.Graph(t)
	const name = "image:reg.example/app:v1"

	h, err := at(t, g, lineage.At{}).History(name)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, p := range h {
		got = append(got, p.Entry)
	}
	if diff := cmp.Diff([]int64{a1, b, a2, gone}, got); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}

	for _, c := range []struct {
		name string
		at   lineage.At
		want string // content; "" where nothing is there
		says string // in the error
	}{
		{"before the first sighting", lineage.At{Time: lineagetest.RecordedAt(a1).Add(-time.Second)}, "", "unknown at"},
		{"at the first sighting", lineage.At{Time: lineagetest.RecordedAt(a1)}, "A", ""},
		{"between", lineage.At{Time: lineagetest.RecordedAt(b).Add(-time.Second)}, "A", ""},
		{"moved", lineage.At{Time: lineagetest.RecordedAt(b)}, "B", ""},
		{"moved back", lineage.At{Time: lineagetest.RecordedAt(a2)}, "A", ""},
		{"deleted", lineage.At{Time: lineagetest.RecordedAt(gone)}, "", "deleted, says entry 4"},
		{"now", lineage.At{}, "", "deleted"},
		{"as of the size before it was deleted", lineage.At{Size: gone}, "A", ""},
		{"as of the size before it was moved", lineage.At{Size: b}, "A", ""},
		{"as of before anything", lineage.At{Size: 1}, "", "not found"},
		{"known then, asked of a later size", lineage.At{Size: gone, Time: lineagetest.RecordedAt(b)}, "B", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := at(t, g, c.at).Name(name)
			if c.want == "" {
				if !errors.Is(err, lineage.ErrNotFound) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("Name = %v, %v; want an error that says %q", p.Key, err, c.says)
				}
				return
			}
			if err != nil || p.Key != lineagetest.FileKey(c.want) {
				t.Errorf("Name = %v, %v; want %s", p.Key, err, c.want)
			}
		})
	}
	names, err := at(t, g, lineage.At{}).NamesOf(lineagetest.FileKey("A"))
	if err != nil || len(names) != 3 {
		t.Errorf("NamesOf(A) = %v, %v; want its three sightings", names, err)
	}
}

// TestModelsAtATime moves a version of a model and asks which versions there
// were before, between and after.
func TestModelsAtATime(t *testing.T) {
	log := lineagetest.New(t)
	named := func(version, content string) int64 {
		return log.Add(lineagetest.Model(t, "m", version, "", lineagetest.File("f", content)))
	}
	one := named("1", "A")
	two := named("2", "B")
	moved := named("1", "C")
	log.AddUnsigned(lineagetest.Model(t, "m", "2", "", lineagetest.File("f", "evil")))
	v := log.View(t)
	for _, c := range []struct {
		by   time.Time
		want []int64
	}{
		{lineagetest.RecordedAt(one).Add(-time.Second), nil},
		{lineagetest.RecordedAt(two), []int64{one, two}},
		{lineagetest.RecordedAt(moved + 9), []int64{two, moved}},
	} {
		var got []int64
		filter := lineage.Filter{By: c.by}
		for m, err := range v.Models(t.Context(), 0, "", filter) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, m.Entry)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("versions at %s (-want +got):\n%s", c.by, diff)
		}
		if n, err := v.CountModels(t.Context(), "", filter); err != nil || n != int64(len(c.want)) {
			t.Errorf("CountModels at %s = %d, %v; want %d", c.by, n, err, len(c.want))
		}
	}
}

// TestAliasIsNeverTheNewest names an alias last and asks for the model without a
// version.
func TestAliasIsNeverTheNewest(t *testing.T) {
	log := lineagetest.New(t)
	one, two := lineagetest.File("f", "A"), lineagetest.File("f", "B")
	log.Add(lineagetest.Model(t, "m", "1", "", one))
	log.Add(lineagetest.Model(t, "m", "2", "", two))
	log.Add(lineagetest.Statement(t, schema.ModelV1, schema.Model{Name: "m", Version: "champion", Alias: true}, one))
	v := log.View(t)
	for ref, want := range map[string]string{"m": "B", "m@champion": "A"} {
		if r, err := v.Resolve(ref); err != nil || r.Start.Key != lineagetest.FileKey(want) {
			t.Errorf("Resolve(%s) = %v, %v; want %s", ref, r.Start.Key, err, want)
		}
	}
}

// TestSourceTime checks that a source's own time counts, unless it lies in the
// ledger's future.
func TestSourceTime(t *testing.T) {
	log := lineagetest.New(t)
	said := lineagetest.Epoch.Add(-24 * time.Hour)
	commit := func(name string, when time.Time) int64 {
		who := schema.Person{Name: "a", Email: "b", When: when}
		return log.Add(lineagetest.Statement(t, schema.CommitV1, schema.Commit{Tree: lineagetest.CommitHex("t"), Author: who, Committer: who}, lineagetest.CommitOf(name, "r")))
	}
	past, near, future := commit("past", said), commit("near", lineagetest.RecordedAt(2).Add(4*time.Minute)), commit("future", lineagetest.RecordedAt(3).Add(6*time.Minute))
	v := log.View(t)
	for entry, want := range map[int64]time.Time{past: said, near: lineagetest.RecordedAt(2).Add(4 * time.Minute), future: lineagetest.RecordedAt(future)} {
		if e, err := v.Entry(entry); err != nil || !e.At.Equal(want) {
			t.Errorf("entry %d happened at %v, %v; want %v", entry, e.At, err, want)
		}
	}
}

func TestModelVersions(t *testing.T) {
	log := lineagetest.New(t)
	one := log.Add(lineagetest.Model(t, "forecast", "1", "r1", file("one")))
	ten := log.Add(lineagetest.Model(t, "forecast", "10", "r10", file("ten")))
	log.Add(lineagetest.Model(t, "forecast-eu", "7", "r7", file("eu")))
	two := log.Add(lineagetest.Model(t, "forecast", "2", "r2", file("two")))
	g := log.Graph(t)
	for _, c := range []struct {
		at   lineage.At
		ref  string
		want string
	}{
		{lineage.At{}, "forecast", "model:forecast@2"},
		{lineage.At{}, "model:forecast", "model:forecast@2"},
		{lineage.At{Size: two}, "forecast", "model:forecast@10"},
		{lineage.At{Time: lineagetest.RecordedAt(one)}, "forecast", "model:forecast@1"},
		{lineage.At{Time: lineagetest.RecordedAt(ten)}, "forecast", "model:forecast@10"},
		{lineage.At{}, "forecast@10", "model:forecast@10"},
	} {
		r := resolve(t, at(t, g, c.at), c.ref)
		if r.Name != c.want || r.Start.Run == "" {
			t.Errorf("Resolve(%q) at %+v = %+v, want %s and its run", c.ref, c.at, r, c.want)
		}
	}
	models := collect(t, at(t, g, lineage.At{}).Models(t.Context(), 0, "forecast", lineage.Filter{}))
	var versions []string
	for _, m := range models {
		versions = append(versions, m.Version)
	}
	if diff := cmp.Diff([]string{"1", "10", "2"}, versions); diff != "" {
		t.Errorf("versions of forecast (-want +got):\n%s", diff)
	}
}

func TestResolve(t *testing.T) {
	log := lineagetest.New(t)
	lineagetest.Forecast(t, log)
	log.Add(branch(t, "forecast", "main", "first"))
	log.Add(branch(t, "forecast", "shared", "first"))
	log.Add(branch(t, "other", "shared", "first"))
	log.Add(tag(t, "latest", "train image", false))
	log.Add(tag(t, "v2", "train image", false))
	snap := log.Add(bigSnapshot(t, "snap"))
	dep := log.Add(lineagetest.Statement(t, schema.DeploymentV1, schema.Deployment{Workload: "prod/ml/Deployment/api"}, lineagetest.Image("reg.example/app", "train image")))
	v := log.View(t)
	model, image, commit := lineagetest.FileKey("model weather until March"), lineagetest.FileKey("train image"), lineagetest.CommitKey("first")
	tree := resolve(t, v, "snapshot:dir:///data").Start.Key

	for _, c := range []struct {
		ref  string
		want schema.Key
		run  string
	}{
		{string(model), model, ""},
		{string(model)[:len("sha256:")+8], model, ""},
		{"forecast", model, "train-2"},
		{"forecast@2", model, "train-2"},
		{"model:forecast@2", model, "train-2"},
		{"git:" + commit.Hex(), commit, ""},
		{"git:" + commit.Hex()[:8], commit, ""},
		{"git:main", commit, ""},
		{"git:forecast#refs/heads/shared", commit, ""},
		{string(commit), commit, ""},
		{"image:reg.example/app:v2", image, ""},
		{"image:reg.example/app", image, ""},
		{"image:reg.example/app@" + string(image), image, ""},
		{"image:" + string(image)[:20], image, ""},
		{"snapshot:" + tree.Hex()[:10], tree, ""},
		{"snapshot:" + string(tree), tree, ""},
		{"dir:///data", tree, ""},
		{"workload:prod/ml/Deployment/api", image, ""},
		{"s3://public/holidays.csv", schema.URIKey("s3://public/holidays.csv"), ""},
		{"run:train-2", "", "train-2"},
		{"run:features", "", ""}, // ambiguous
		{"step:9", "", "train-2"},
		{"entry:10", "", ""},
		{"#10", "", ""},
	} {
		r, err := v.Resolve(c.ref)
		if c.ref == "run:features" {
			var ambiguous *lineage.AmbiguousError
			if !errors.As(err, &ambiguous) || len(ambiguous.Candidates) != 2 || !strings.Contains(err.Error(), "features-1") {
				t.Errorf("Resolve(%q) = %v, %v; want both runs named", c.ref, r, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("Resolve(%q): %v", c.ref, err)
			continue
		}
		if r.Text != c.ref || c.want != "" && r.Start.Key != c.want || r.Start.Run != c.run {
			t.Errorf("Resolve(%q) = %+v, want %s made by run %q", c.ref, r, c.want, c.run)
		}
	}
	if r := resolve(t, v, "entry:10"); r.Entry != 10 {
		t.Errorf("Resolve(entry:10) = %+v", r)
	}
	_, _ = snap, dep
}

func TestResolveRefuses(t *testing.T) {
	log := lineagetest.New(t)
	lineagetest.Forecast(t, log)
	log.Add(branch(t, "forecast", "shared", "first"))
	log.Add(branch(t, "other", "shared", "first"))
	// Two files whose digests begin alike.
	near := schema.Descriptor{Name: "near", Digest: schema.DigestSet{schema.SHA256: string(lineagetest.FileKey("python"))[len("sha256:"):][:20] + strings.Repeat("0", 44)}}
	log.Add(lineagetest.Statement(t, schema.AttestationV1, schema.Attestation{Claim: "x"}, near))
	v := log.View(t)
	for _, c := range []struct {
		ref       string
		says      string
		ambiguous bool
		notFound  bool
	}{
		{"", "empty", false, false},
		{"forcast", "did you mean forecast?", false, true},
		{"forecast@22", "did you mean forecast@2", false, true},
		{"model:nothing-like-it", "not found", false, true},
		{"sha256:abc", "8 hex digits", false, true},
		{"sha256:ffffffffffff", "not found", false, true},
		{string(lineagetest.FileKey("python"))[:20], "is ambiguous: it may be sha256:", true, false},
		{"git:shared", "is ambiguous: it may be git:forecast#refs/heads/shared, git:other#refs/heads/shared", true, false},
		{"git:nowhere", "not found", false, true},
		{"entry:99", "has", false, true},
		{"entry:-1", "not", false, false},
		{"#x", "index of an entry", false, false},
		{"step:1", "states no step", false, true},
		{"run:nobody-ran", "not found", false, true},
		{"image:reg.example/none", "not found", false, true},
		{"s3://public/none", "not found", false, true},
		{"workload:a/b/c/d", "not found", false, true},
		{"snapshot:dir:///none", "not found", false, true},
		{"nonsense:thing", "", false, true},
	} {
		r, err := v.Resolve(c.ref)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Resolve(%q) = %+v, %v; want an error that says %q", c.ref, r, err, c.says)
			continue
		}
		var ambiguous *lineage.AmbiguousError
		if errors.As(err, &ambiguous) != c.ambiguous || errors.Is(err, lineage.ErrNotFound) != (c.notFound) && c.ref != "entry:-1" {
			t.Errorf("Resolve(%q): %v: ambiguous %v, not found %v; want %v, %v", c.ref, err, errors.As(err, &ambiguous), errors.Is(err, lineage.ErrNotFound), c.ambiguous, c.notFound)
		}
		if r.Start.Key != "" {
			t.Errorf("Resolve(%q) fails and gives %+v", c.ref, r)
		}
	}
}

// TestLocations checks that a location has a history, as a name has.
func TestLocations(t *testing.T) {
	log := lineagetest.New(t)
	put := func(content, uri string) int64 {
		d := file(content)
		d.URI = uri
		return log.Add(lineagetest.Statement(t, schema.AttestationV1, schema.Attestation{Claim: uri}, d))
	}
	a := put("A", "s3://b/x")
	put("A", "s3://b/copy") // a second place for the same bytes
	b := put("B", "s3://b/x")
	put("A", "s3://b/x")
	g := log.Graph(t)
	for _, c := range []struct {
		at   lineage.At
		uri  string
		want string
	}{
		{lineage.At{}, "s3://b/x", "A"},
		{lineage.At{}, "s3://b/copy", "A"},
		{lineage.At{Size: b + 1}, "s3://b/x", "B"},
		{lineage.At{Size: b}, "s3://b/x", "A"},
		{lineage.At{Time: lineagetest.RecordedAt(b)}, "s3://b/x", "B"},
		{lineage.At{Time: lineagetest.RecordedAt(a)}, "s3://b/x", "A"},
	} {
		if r := resolve(t, at(t, g, c.at), c.uri); r.Start.Key != lineagetest.FileKey(c.want) {
			t.Errorf("Resolve(%s) at %+v = %s, want %s", c.uri, c.at, r.Start.Key.Short(), c.want)
		}
	}
	for _, early := range []lineage.At{{Size: a}, {Time: lineagetest.RecordedAt(a).Add(-time.Second)}} {
		if _, err := at(t, g, early).Resolve("s3://b/x"); !errors.Is(err, lineage.ErrNotFound) {
			t.Errorf("Resolve before the first sighting: %v", err)
		}
	}
}

// TestZeroBytes checks that a name, run, type or location which holds a zero
// byte does not answer for the part before it.
func TestZeroBytes(t *testing.T) {
	log := lineagetest.New(t)
	log.Add(lineagetest.Model(t, "m", "1\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "r\x00", file("evil")))
	log.Add(run(t, "r\x00\x00\x00\x00\x00\x00\x00\x00\x01", "evil", "x"))
	d := file("evil")
	d.URI = "s3://b/x\x00\x00\x00\x00\x00\x00\x00\x00\x01k"
	log.Add(lineagetest.Statement(t, "https://example.org/type\x00", struct{}{}, d))
	v := log.View(t)
	for _, text := range []string{"m@1", "run:r", "s3://b/x"} {
		if r, err := v.Resolve(text); !errors.Is(err, lineage.ErrNotFound) {
			t.Errorf("Resolve(%q) = %+v, %v", text, r, err)
		}
	}
	if got := collect(t, v.Entries(t.Context(), 0, lineage.Filter{PredicateType: "https://example.org/type"})); len(got) != 0 {
		t.Errorf("entries of a type that nobody stated: %v", got)
	}
}
