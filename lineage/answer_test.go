package lineage_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
)

func grade(t *testing.T, v *lineage.View, entry int64) schema.Evidence {
	t.Helper()
	e, err := v.Entry(entry)
	if err != nil {
		t.Fatal(err)
	}
	if g, err := v.Grade(t.Context(), entry); err != nil || g.Evidence != e.Evidence {
		t.Errorf("entry %d is %s, its grade %s, %v", entry, e.Evidence, g, err)
	}
	return e.Evidence
}

func TestTrust(t *testing.T) {
	log := lineagetest.New(t)
	ci := lineagetest.Key(t, 20)
	observed := log.Add(run(t, "o", "o", "in"))
	early := log.AddBy(ci, run(t, "e", "e", "in"))
	unsigned := log.AddUnsigned(run(t, "u", "u", "in"))
	// A key that nobody trusts cannot make itself trusted.
	log.AddBy(ci, lineagetest.Trust(t, ci, nil))
	still := log.Size()
	trusted := log.Add(lineagetest.Trust(t, ci, nil))
	late := log.AddBy(ci, run(t, "l", "l", "in"))
	revoked := log.Add(lineagetest.Trust(t, ci, func(p *schema.Trust) {
		p.Action, p.NotAfter = "revoke", lineagetest.RecordedAt(late)
	}))
	g := log.Graph(t)
	for _, c := range []struct {
		size  int64
		entry int64
		want  schema.Evidence
	}{
		{0, observed, schema.Observed},
		{0, unsigned, schema.Claimed},
		{still, early, schema.Claimed},
		{trusted, early, schema.Claimed},
		{trusted + 1, early, schema.Attested},
		{late + 1, late, schema.Attested},
		{revoked, late, schema.Attested},
		{revoked + 1, late, schema.Claimed}, // recorded at NotAfter
		{revoked + 1, early, schema.Attested},
	} {
		if got := grade(t, at(t, g, lineage.At{Size: c.size}), c.entry); got != c.want {
			t.Errorf("as of %d entries, entry %d is %s, want %s", c.size, c.entry, got, c.want)
		}
	}
	// The answer names the trust entries that its grades rest on.
	l := answer(t, at(t, g, lineage.At{}), ref("e"), lineage.LineageOptions{})
	if want := []int64{early, trusted, revoked}; !slices.Equal(l.Entries, want) {
		t.Errorf("entries of the answer = %v, want %v", l.Entries, want)
	}
	l = answer(t, at(t, g, lineage.At{Size: revoked}), ref("e"), lineage.LineageOptions{})
	if want := []int64{early, trusted}; !slices.Equal(l.Entries, want) || l.Edges[0].Evidence != schema.Attested {
		t.Errorf("before the revocation: entries %v, want %v; %s", l.Entries, want, l.Edges[0].Evidence)
	}
}

func TestTrustIsScoped(t *testing.T) {
	log := lineagetest.New(t)
	ci := lineagetest.Key(t, 20)
	log.Add(lineagetest.Trust(t, ci, func(p *schema.Trust) {
		p.Namespaces, p.PredicateTypes = []string{"team-a"}, []string{schema.ProvenanceV1}
	}))
	add := func(s schema.Statement, namespace string) int64 {
		env, err := ci.SignStatement(s)
		if err != nil {
			t.Fatal(err)
		}
		return log.AddEnvelope(env, namespace)
	}
	in := add(run(t, "a", "a", "in"), "team-a")
	elsewhere := add(run(t, "b", "b", "in"), "team-b")
	other := add(lineagetest.Model(t, "m", "1", "", file("a")), "team-a")
	v := log.View(t)
	for entry, want := range map[int64]schema.Evidence{in: schema.Attested, elsewhere: schema.Claimed, other: schema.Claimed} {
		if got := grade(t, v, entry); got != want {
			t.Errorf("entry %d is %s, want %s", entry, got, want)
		}
	}
}

func TestWalks(t *testing.T) {
	log := lineagetest.New(t)
	log.Add(run(t, "one", "b", "a"))
	log.Add(run(t, "two", "c", "b", "a"))
	log.Add(run(t, "three", "d", "c", "b"))
	v := log.View(t)
	up := answer(t, v, ref("d"), lineage.LineageOptions{})
	if diff := cmp.Diff([]string{"d<c", "d<b", "c<b", "c<a", "b<a"}, edges(up)); diff != "" {
		t.Errorf("up (-want +got):\n%s", diff)
	}
	down := answer(t, v, ref("a"), lineage.LineageOptions{Direction: schema.Downstream})
	if diff := cmp.Diff([]string{"b<a", "c<a", "c<b", "d<b", "d<c"}, edges(down)); diff != "" {
		t.Errorf("down (-want +got):\n%s", diff)
	}
	for depth, want := range map[int]int{1: 2, 2: 5, 3: 5} {
		l := answer(t, v, ref("d"), lineage.LineageOptions{Depth: depth})
		if len(l.Edges) != want || l.Truncated != (want < 5) {
			t.Errorf("depth %d: %d edges, truncated %v; want %d", depth, len(l.Edges), l.Truncated, want)
		}
	}
	if l := answer(t, v, ref("d"), lineage.LineageOptions{Edges: 3}); len(l.Edges) != 3 || !l.Truncated {
		t.Errorf("of three edges: %d, truncated %v", len(l.Edges), l.Truncated)
	}
	if l := answer(t, v, ref("d"), lineage.LineageOptions{Edges: 5}); len(l.Edges) != 5 || l.Truncated {
		t.Errorf("of exactly five edges: %d, truncated %v", len(l.Edges), l.Truncated)
	}
}

func TestCyclesEnd(t *testing.T) {
	log := lineagetest.New(t)
	log.Add(run(t, "there", "b", "a"))
	log.Add(run(t, "back", "a", "b"))
	log.Add(run(t, "self", "c", "c", "a")) // rewrites a file with what it was
	v := log.View(t)
	for _, c := range []struct {
		from string
		dir  schema.Direction
		want []string
	}{
		{"a", schema.Upstream, []string{"a<b", "b<a"}},
		{"b", schema.Downstream, []string{"a<b", "b<a", "c<a", "c<c"}},
		{"c", schema.Upstream, []string{"c<c", "c<a", "a<b", "b<a"}},
	} {
		l := answer(t, v, ref(c.from), lineage.LineageOptions{Direction: c.dir})
		got := edges(l)
		slices.Sort(got)
		slices.Sort(c.want)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.dir, c.from, diff)
		}
	}
	left, right := resolve(t, v, ref("a")), resolve(t, v, ref("b"))
	if _, err := v.Diff(t.Context(), left, right); err != nil {
		t.Errorf("diff in a cycle: %v", err)
	}
}

func TestEmptyFilesJoinNothing(t *testing.T) {
	log := lineagetest.New(t)
	empty := lineagetest.File("__init__.py", "")
	log.Add(lineagetest.Run{ID: "a", Argv: []string{"a"}, Uses: []schema.Descriptor{input("secret")}, Makes: []schema.Descriptor{empty}}.Statement(t))
	log.Add(lineagetest.Run{ID: "b", Argv: []string{"b"}, Uses: []schema.Descriptor{lineagetest.As(schema.RoleInput, "x", empty)}, Makes: []schema.Descriptor{file("out")}}.Statement(t))
	v := log.View(t)
	if got := edges(answer(t, v, ref("out"), lineage.LineageOptions{})); len(got) != 1 {
		t.Errorf("edges above out = %v: want the use of the empty file and nothing beyond", got)
	}
	if got := edges(answer(t, v, ref("secret"), lineage.LineageOptions{Direction: schema.Downstream})); len(got) != 1 {
		t.Errorf("edges below secret = %v", got)
	}
}

// TestBoundUse checks that a use is bound to the run that it names, and to all
// runs that made the same bytes otherwise.
func TestBoundUse(t *testing.T) {
	log := lineagetest.New(t)
	one := log.Add(run(t, "one", "same", "input one"))
	two := log.Add(run(t, "two", "same", "input two"))
	r := lineagetest.Run{ID: "named", Argv: []string{"n"}, Makes: []schema.Descriptor{file("named")}}
	r.Uses = []schema.Descriptor{lineagetest.From("two", input("same"))}
	log.Add(r.Statement(t))
	r = lineagetest.Run{ID: "unnamed", Argv: []string{"n"}, Makes: []schema.Descriptor{file("unnamed")}, Uses: []schema.Descriptor{input("same")}}
	log.Add(r.Statement(t))
	r = lineagetest.Run{ID: "wrong", Argv: []string{"n"}, Makes: []schema.Descriptor{file("wrong")}}
	r.Uses = []schema.Descriptor{lineagetest.From("a run that nobody recorded", input("same"))}
	log.Add(r.Statement(t))
	log.Add(lineagetest.Model(t, "m", "1", "one", file("same")))
	v := log.View(t)
	for ref, want := range map[string][]int64{ref("named"): {two}, ref("unnamed"): {one, two}, ref("wrong"): {one, two}, "m@1": {one}, ref("same"): {one, two}} {
		l := answer(t, v, ref, lineage.LineageOptions{})
		var steps []int64
		for _, e := range l.Edges {
			if e.From != lineagetest.FileKey("same") {
				continue
			}
			steps = append(steps, e.Step)
			if e.Ambiguous != (len(want) > 1) {
				t.Errorf("%s: edge to step %d is ambiguous: %v", ref, e.Step, e.Ambiguous)
			}
		}
		slices.Sort(steps)
		if !slices.Equal(steps, want) {
			t.Errorf("%s: the same bytes were made by steps %v, want %v", ref, steps, want)
		}
		gaps, err := v.Gaps(t.Context(), resolve(t, v, ref), nil)
		if err != nil {
			t.Fatal(err)
		}
		if has := slices.ContainsFunc(gaps, func(g lineage.Gap) bool { return g.ID == "ambiguous-producer" }); has != (len(want) > 1) {
			t.Errorf("%s: gap ambiguous-producer is there: %v", ref, has)
		}
	}
}

// TestEachEdgeOnce walks over statements that say the same thing twice.
func TestEachEdgeOnce(t *testing.T) {
	log := lineagetest.New(t)
	r := lineagetest.Run{ID: "twice", Argv: []string{"t"}, Makes: []schema.Descriptor{file("out"), file("out2")}}
	for range 30 {
		r.Uses = append(r.Uses, input("same"), lineagetest.From("x", input("same")))
	}
	log.Add(r.Statement(t))
	var files []schema.SnapshotFile
	for i := range 20 {
		files = append(files, schema.SnapshotFile{Path: fmt.Sprint("copy", i), Type: "file", SHA256: lineagetest.FileKey("out").Hex()})
	}
	tree, err := schema.TreeDigest(files)
	if err != nil {
		t.Fatal(err)
	}
	log.Add(lineagetest.Statement(t, schema.SnapshotV1, schema.Snapshot{Source: "dir:///d", Files: files}, schema.Descriptor{Name: "folder", Digest: schema.DigestSet{schema.RetraceTree1: tree}}))
	v := log.View(t)
	if got := edges(answer(t, v, "dir:///d", lineage.LineageOptions{})); len(got) != 2 {
		t.Errorf("edges of the folder = %v, want its one member and what that used", got)
	}
	if got := edges(answer(t, v, ref("same"), lineage.LineageOptions{Direction: schema.Downstream})); len(got) != 3 {
		t.Errorf("edges below same = %v, want two outputs and the folder", got)
	}
}

// diffOf is what differs between two references, as "kind name cause".
func diffOf(t *testing.T, v *lineage.View, left, right string) ([]string, *lineage.Diff) {
	t.Helper()
	d, err := v.Diff(t.Context(), resolve(t, v, left), resolve(t, v, right))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, x := range d.Differences {
		cause := "follows"
		if x.Cause {
			cause = "cause"
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", x.Kind, x.Name, cause)))
	}
	return out, d
}

// version records a pipeline of two steps that ends in a model.
func version(t *testing.T, log *lineagetest.Log, v, data, commit string, params map[string]string) {
	t.Helper()
	code := lineagetest.As(schema.RoleCode, "", lineagetest.CommitOf(commit, "repo"))
	features, model := strings.Join([]string{"features", data, commit}, " "), strings.Join([]string{"model", data, commit, fmt.Sprint(params)}, " ")
	log.Add(lineagetest.Run{
		ID: "features-" + v, Argv: []string{"features"}, Uses: []schema.Descriptor{code, lineagetest.As(schema.RoleInput, "data.csv", file(data))},
		Makes: []schema.Descriptor{file(features)},
	}.Statement(t))
	log.Add(lineagetest.Run{
		ID: "train-" + v, Argv: []string{"train"}, Parameters: params, Metrics: map[string]any{"mae": 1},
		Uses:  []schema.Descriptor{code, lineagetest.As(schema.RoleInput, "features.csv", lineagetest.From("features-"+v, file(features)))},
		Makes: []schema.Descriptor{file(model)},
	}.Statement(t))
	log.Add(lineagetest.Model(t, "m", v, "train-"+v, file(model)))
}

func TestDiff(t *testing.T) {
	log := lineagetest.New(t)
	lr := func(v string) map[string]string { return map[string]string{"lr": v} }
	version(t, log, "base", "march", "c1", lr("0.1"))
	version(t, log, "again", "march", "c1", lr("0.1"))
	version(t, log, "data", "april", "c1", lr("0.1"))
	version(t, log, "code", "march", "c2", lr("0.1"))
	version(t, log, "param", "march", "c1", lr("0.2"))
	version(t, log, "all", "april", "c2", lr("0.2"))
	log.Add(lineagetest.Model(t, "bare", "1", "", file("came from nowhere")))
	v := log.View(t)
	for _, c := range []struct {
		right string
		want  []string
	}{
		{"m@base", nil},
		{"m@again", nil},
		{"m@data", []string{"input data.csv cause", "input features.csv follows"}},
		{"m@code", []string{"code repo cause", "input features.csv follows"}},
		{"m@param", []string{"parameter lr cause"}},
		{"m@all", []string{"parameter lr cause", "code repo cause", "input data.csv cause", "input features.csv follows"}},
	} {
		got, d := diffOf(t, v, "m@base", c.right)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("diff m@base %s (-want +got):\n%s", c.right, diff)
		}
		if d.Same != (c.right == "m@base") {
			t.Errorf("diff m@base %s: same = %v", c.right, d.Same)
		}
		if fmt.Sprint(d.LeftMetrics["mae"], d.RightMetrics["mae"]) != "1 1" {
			t.Errorf("diff m@base %s: metrics %v and %v", c.right, d.LeftMetrics, d.RightMetrics)
		}
		mirror, _ := diffOf(t, v, c.right, "m@base")
		if diff := cmp.Diff(got, mirror); diff != "" {
			t.Errorf("diff %s m@base is not the mirror (-one +other):\n%s", c.right, diff)
		}
	}
	// Where one side has no recorded producer, that is the difference.
	log.Add(lineagetest.Model(t, "bare", "2", "", file("came from nowhere else")))
	v = log.View(t)
	for pair, want := range map[[2]string]string{{"m@base", "bare@1"}: "step producer cause", {"bare@1", "m@base"}: "step producer cause", {"bare@1", "bare@2"}: "content  cause"} {
		if got, d := diffOf(t, v, pair[0], pair[1]); len(got) != 1 || got[0] != want || d.Same {
			t.Errorf("diff %v = %q, want %q", pair, got, want)
		}
	}
}

// TestGaps has one world with each gap, and one without any.
func TestGaps(t *testing.T) {
	log := lineagetest.New(t)
	started := lineagetest.Epoch
	clean := lineagetest.Run{
		ID: "clean", Argv: []string{"x"}, Started: started, Took: time.Second, Makes: []schema.Descriptor{file("clean")},
		Uses: []schema.Descriptor{lineagetest.As(schema.RoleTool, "", file("tool"))},
	}
	log.Add(clean.Statement(t))
	elsewhere := input("elsewhere")
	elsewhere.Annotations[schema.AnnotationContent] = "host:gpu-7"
	bad := lineagetest.Run{
		ID: "bad", Argv: []string{"x"}, Exit: 2, Secrets: []string{"TOKEN"}, Started: started, Took: time.Second,
		Gaps: []schema.GapFact{{Rule: "dirty-tree", Detail: "a.py"}, {Rule: "something-new", Detail: "d"}},
		Uses: []schema.Descriptor{
			lineagetest.As(schema.RoleInput, "", schema.Descriptor{Name: "holidays", URI: "s3://b/h"}), elsewhere, input("missing"), input("held"), input("clean"),
		},
		Makes: []schema.Descriptor{file("bad")},
	}
	log.Add(bad.Statement(t))
	log.AddUnsigned(run(t, "claimed", "claimed", "bad"))
	foreign := lineagetest.Statement(t, schema.ProvenanceV1, schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: "https://example.org/build", ExternalParameters: []byte("{}"), ResolvedDependencies: []schema.Descriptor{file("held")}},
		RunDetails:      schema.RunDetails{Builder: schema.Builder{ID: "b"}},
	}, file("foreign"))
	log.Add(foreign)
	log.Add(lineagetest.Model(t, "orphan", "1", "", file("orphan")))
	v := log.View(t)
	held := func(_ context.Context, r schema.Resource) (bool, error) { return r.Name != "missing", nil }

	gaps := func(ref string) []string {
		t.Helper()
		list, err := v.Gaps(t.Context(), resolve(t, v, ref), held)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, g := range list {
			if g.Explain == "" || g.Remedy == "" || g.Severity == "" {
				t.Errorf("gap %s explains nothing: %+v", g.ID, g)
			}
			out = append(out, strings.TrimSpace(g.ID+" "+g.Detail))
		}
		slices.Sort(out)
		return out
	}
	for ref, want := range map[string][]string{
		ref("clean"):   nil,
		ref("bad"):     {"content-elsewhere gpu-7", "content-missing", "dirty-tree a.py", "no-digest", "secret-withheld TOKEN", "something-new d", "step-failed exit status 2"},
		ref("claimed"): {"claimed-only used", "content-elsewhere gpu-7", "content-missing", "dirty-tree a.py", "no-digest", "secret-withheld TOKEN", "something-new d", "step-failed exit status 2"},
		ref("foreign"): {"not-rerunnable"},
		"orphan@1":     {"not-recorded"},
	} {
		if diff := cmp.Diff(want, gaps(ref)); diff != "" {
			t.Errorf("gaps of %s (-want +got):\n%s", ref, diff)
		}
	}
}
