package restore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/retrace-ledger/retrace/ingest/oci"
	"github.com/retrace-ledger/retrace/ingest/run"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/restore"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// places are those of the plan's steps with the entries that state them.
func places(p *restore.Plan) []string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, fmt.Sprintf("%s entry:%d", s.Place, s.Entry))
	}
	return out
}

func TestPlanForecast(t *testing.T) {
	t.Parallel()
	log := lineagetest.New(t)
	lineagetest.Forecast(t, log)
	v := log.View(t)
	ref, err := v.Resolve("forecast@1")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := restore.NewPlan(t.Context(), v, ref, restore.Sources{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"steps/01-python-prepare.py entry:3", "steps/02-python-features.py entry:4", "steps/03-python-train.py entry:5"}
	if diff := cmp.Diff(want, places(plan)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	train := plan.Steps[2]
	if train.Parameters["epochs"] != "3" || train.Tool == nil || train.Image != lineagetest.FileKey("train image") {
		t.Errorf("the step is planned as %+v", train)
	}
	var producers []string
	for _, it := range train.Items {
		producers = append(producers, fmt.Sprintf("%s %s %d", it.Role, it.Place, it.Producer))
	}
	want = []string{"code steps/03-python-train.py 0", "input steps/03-python-train.py/work/features.csv 2", "input steps/03-python-train.py/work/clean.csv 1"}
	if diff := cmp.Diff(want, producers); diff != "" {
		t.Errorf("what the step used (-want +got):\n%s", diff)
	}
	if len(plan.Images) != 1 || !strings.HasPrefix(plan.Images[0].Place, "images/sha256-") {
		t.Errorf("images: %+v", plan.Images)
	}
	again, err := restore.NewPlan(t.Context(), v, ref, restore.Sources{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	one, two := encode(t, plan), encode(t, again)
	if !bytes.Equal(one, two) {
		t.Errorf("planned twice:\n%s\n%s", one, two)
	}
	parsed, err := restore.ParsePlan(one)
	if err != nil {
		t.Fatal(err)
	}
	if got := encode(t, parsed); !bytes.Equal(got, one) {
		t.Errorf("parsed and encoded again:\n%s\nwant\n%s", got, one)
	}
	if a, b := digest(t, plan), digest(t, parsed); a != b {
		t.Errorf("digest is %s, after parsing %s", a, b)
	}
}

func encode(t *testing.T, p *restore.Plan) []byte {
	t.Helper()
	raw, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func digest(t *testing.T, p *restore.Plan) string {
	t.Helper()
	d, err := p.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The digest stays while the ledger grows and sources come and go.
func TestPlanDigest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	before := w.plan("forecast@1")
	w.statement(fabricated{id: "other", argv: []string{"true"}, outputs: map[string]string{"x": "y"}})
	after := w.plan("forecast@1")
	if before.Size == after.Size {
		t.Fatal("the ledger did not grow")
	}
	if a, b := digest(t, before), digest(t, after); a != b {
		t.Errorf("digest was %s, is %s", a, b)
	}
	w.store = nil
	v := w.view()
	ref, err := v.Resolve("model:forecast@1")
	if err != nil {
		t.Fatal(err)
	}
	bare, err := restore.NewPlan(t.Context(), v, ref, restore.Sources{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digest(t, before), digest(t, bare); a != b {
		t.Errorf("digest was %s, without sources %s", a, b)
	}
	if len(bare.Missing()) == 0 {
		t.Error("nothing is missing though there are no sources")
	}
}

func use(path, text, run string) schema.Descriptor {
	return lineagetest.As(schema.RoleInput, path, lineagetest.From(run, lineagetest.File(path, text)))
}

// add adds a step to a log.
func add(t *testing.T, log *lineagetest.Log, id string, uses []schema.Descriptor, makes ...schema.Descriptor) int64 {
	t.Helper()
	return log.Add(lineagetest.Run{ID: id, Argv: []string{"sh", id}, Uses: uses, Makes: makes}.Statement(t))
}

func planOf(t *testing.T, log *lineagetest.Log, ref string, opt *restore.PlanOptions) (*restore.Plan, error) {
	t.Helper()
	v := log.View(t)
	r, err := v.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	return restore.NewPlan(t.Context(), v, r, restore.Sources{}, opt)
}

func TestPlanCycle(t *testing.T) {
	t.Parallel()
	log := lineagetest.New(t)
	add(t, log, "a", []schema.Descriptor{use("y", "yyy", "b")}, lineagetest.File("x", "xxx"))
	add(t, log, "b", []schema.Descriptor{use("x", "xxx", "a")}, lineagetest.File("y", "yyy"))
	plan, err := planOf(t, log, "run:a", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"steps/01-sh-b entry:2", "steps/02-sh-a entry:1"}
	if diff := cmp.Diff(want, places(plan)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], "circle") {
		t.Errorf("notes: %q, want one about the circle", plan.Notes)
	}
	if p := plan.Steps[0].Items[0].Producer; p != 0 {
		t.Errorf("where the circle is cut, the producer is step %d, want none", p)
	}
}

// A step that passes its input on under another name did not make the input.
func TestPlanPassedOn(t *testing.T) {
	t.Parallel()
	log := lineagetest.New(t)
	add(t, log, "copy", []schema.Descriptor{use("x", "same", "")}, lineagetest.File("y", "same"))
	plan, err := planOf(t, log, "run:copy", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Steps) != 1 || plan.Steps[0].Items[0].Producer != 0 || len(plan.Notes) != 0 {
		t.Errorf("plan: %+v, notes %q", places(plan), plan.Notes)
	}
}

func TestPlanAmbiguous(t *testing.T) {
	t.Parallel()
	log := lineagetest.New(t)
	add(t, log, "first", nil, lineagetest.File("f", "fff"))
	second := add(t, log, "second", nil, lineagetest.File("f", "fff"))
	log.AddUnsigned(lineagetest.Run{ID: "stranger", Argv: []string{"sh"}, Makes: []schema.Descriptor{lineagetest.File("f", "fff")}}.Statement(t))
	add(t, log, "train", []schema.Descriptor{use("f", "fff", "")}, lineagetest.File("m", "mmm"))
	add(t, log, "later", nil, lineagetest.File("f", "fff"))
	plan, err := planOf(t, log, "run:train", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Steps) != 2 || plan.Steps[0].Entry != second {
		t.Errorf("steps: %q, want the newest trusted one before the use, entry:%d", places(plan), second)
	}
	if len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], "made by 3 recorded steps") {
		t.Errorf("notes: %q", plan.Notes)
	}
}

// What made the same bytes after they were used is not where they came from,
// in whichever order the two were recorded.
func TestPlanLater(t *testing.T) {
	t.Parallel()
	log := lineagetest.New(t)
	step := func(id string, hour int, uses, makes []schema.Descriptor) {
		log.Add(lineagetest.Run{ID: id, Argv: []string{"sh", id}, Started: lineagetest.Epoch.Add(time.Duration(hour) * time.Hour), Took: time.Minute, Uses: uses, Makes: makes}.Statement(t))
	}
	data := []schema.Descriptor{lineagetest.File("d", "ddd")}
	step("train", 2, []schema.Descriptor{use("d", "ddd", "")}, []schema.Descriptor{lineagetest.File("m", "mmm")})
	step("download again", 3, nil, data)
	plan, err := planOf(t, log, "run:train", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Steps) != 1 {
		t.Errorf("steps: %q, want the first alone", places(plan))
	}
	step("download", 1, nil, data)
	if plan, err = planOf(t, log, "run:train", nil); err != nil {
		t.Fatal(err)
	}
	if want := []string{"steps/01-sh-download entry:3", "steps/02-sh-train entry:1"}; !cmp.Equal(want, places(plan)) {
		t.Errorf("steps: %q, want %q", places(plan), want)
	}
}

func TestPlanShared(t *testing.T) {
	t.Parallel()
	log := lineagetest.New(t)
	add(t, log, "base", nil, lineagetest.File("f", "fff"))
	add(t, log, "left", []schema.Descriptor{use("f", "fff", "base")}, lineagetest.File("l", "lll"))
	add(t, log, "right", []schema.Descriptor{use("f", "fff", "base")}, lineagetest.File("r", "rrr"))
	add(t, log, "join", []schema.Descriptor{use("l", "lll", "left"), use("r", "rrr", "right")}, lineagetest.File("m", "mmm"))
	plan, err := planOf(t, log, "run:join", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"steps/01-sh-base entry:1", "steps/02-sh-left entry:2", "steps/03-sh-right entry:3", "steps/04-sh-join entry:4"}
	if diff := cmp.Diff(want, places(plan)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	_, err = planOf(t, log, "run:join", &restore.PlanOptions{Steps: 3})
	if err == nil || !strings.Contains(err.Error(), "the limit is 3") {
		t.Errorf("with a limit of 3: %v", err)
	}
}

// An untrusted step is planned, shown, and not run.
func TestPlanUntrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.statement(fabricated{id: "r1", argv: []string{"true"}, outputs: map[string]string{"m": "m"}, unsigned: true})
	plan := w.plan("run:r1")
	if len(plan.Steps) != 1 || plan.Steps[0].Evidence != schema.Claimed {
		t.Fatalf("steps: %+v", plan.Steps)
	}
	wantVerdict(t, w.again(plan, nil), schema.NotReplayable, "trusted signer", "claimed")
}

// TestPlanClaimedAlias claims, unsigned, that a commit is another digest of
// what a step made: that step is no part of a plan for the commit.
func TestPlanClaimedAlias(t *testing.T) {
	t.Parallel()
	log := lineagetest.New(t)
	add(t, log, "r1", nil, lineagetest.File("m", "bytes"))
	both := lineagetest.CommitOf("first", "repo")
	log.Add(lineagetest.Statement(t, schema.AttestationV1, schema.Attestation{Claim: "reviewed"}, both))
	both.Digest = schema.DigestSet{schema.GitCommit: lineagetest.CommitHex("first"), schema.SHA256: lineagetest.FileKey("bytes").Hex()}
	alias := lineagetest.Statement(t, schema.AttestationV1, schema.Attestation{Claim: "the same"}, both)
	log.AddUnsigned(alias)
	for _, want := range []int{0, 1} { // claimed, and then observed
		p, err := planOf(t, log, string(lineagetest.CommitKey("first")), nil)
		if err != nil || len(p.Steps) != want {
			t.Errorf("planned %v, %v; want %d steps", p, err, want)
		}
		log.Add(alias)
	}
}

func TestPlanNothing(t *testing.T) {
	t.Parallel()
	log := lineagetest.New(t)
	_, err := restore.NewPlan(t.Context(), log.View(t), lineage.Ref{Text: "entry:0"}, restore.Sources{}, nil)
	if err == nil || !strings.Contains(err.Error(), "entry:0 names no resource") {
		t.Errorf("NewPlan: %v", err)
	}
}

func TestParsePlanHostile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.chain(train)
	good := string(encode(t, w.plan("forecast")))
	root := `"place":"steps/01-sh-features.sh"`
	for _, c := range []struct{ name, old, hostile string }{
		{"input above", `"place":"steps/01-sh-features.sh/data/weather.csv"`, `"place":"../../escaped"`},
		{"input beside", `"place":"steps/01-sh-features.sh/data/weather.csv"`, `"place":"steps/01-sh-features.sh/../02-train.sh/x"`},
		{"input absolute", `"place":"steps/01-sh-features.sh/data/weather.csv"`, `"place":"/etc/passwd"`},
		{"input in .git", `"place":"steps/01-sh-features.sh/data/weather.csv"`, `"place":"steps/01-sh-features.sh/.git/config"`},
		{"input as lock", `"place":"steps/01-sh-features.sh/data/weather.csv"`, `"place":"retrace.lock.json"`},
		{"step place", root, `"place":"steps/01-../../x"`},
		{"step hidden", root, `"place":".partial/01-x"`},
		{"resource", `"place":"resource/model.bin"`, `"place":"resource/../../model.bin"`},
		{"number", `"number":1`, `"number":2`},
		{"producer", `"producer":1`, `"producer":7`},
		{"producer below", `"producer":1`, `"producer":-1`},
		{"unknown field", `"version":1`, `"version":1,"verson":1`},
		{"version", `"version":1`, `"version":2`},
		{"working directory", `"dir":"."`, `"dir":"../.."`},
		{"truncated", `"version":1}`, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the plan has no %s:\n%s", c.old, good)
			}
			if _, err := restore.ParsePlan([]byte(strings.ReplaceAll(good, c.old, c.hostile))); err == nil {
				t.Error("ParsePlan took it")
			}
		})
	}
	plan, err := restore.ParsePlan([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	plan.Steps[0].Items[1].Place = "../../escaped"
	if _, err := restore.Restore(t.Context(), plan, t.TempDir(), w.sources(), nil); err == nil {
		t.Error("Restore took a plan that leads out")
	}
}

func FuzzParsePlan(f *testing.F) {
	data, image := lineagetest.FileKey("data"), lineagetest.FileKey("image")
	exit := 0
	steps := []restore.Step{
		{
			Number: 1, Place: "steps/01-prepare", Entry: 3, Run: "r1", Name: "sh prepare", Evidence: schema.Observed, Argv: []string{"sh", "prepare"}, Dir: ".",
			Parameters: map[string]string{"seed": "1"}, Platform: "linux/amd64", Exit: &exit, Tool: &restore.Tool{Key: data, Path: "bin/sh"}, Needed: true,
			Items: []restore.Item{
				{Key: lineagetest.CommitKey("c"), Kind: "git", Role: schema.RoleCode, Place: "steps/01-prepare", Bytes: -1},
				{Key: data, Kind: "file", Role: schema.RoleInput, Place: "steps/01-prepare/data/x.csv", Exec: true, Origin: restore.OriginStore},
				{Key: data, Kind: "file", Role: schema.RoleInput, Place: "outside/01-prepare/etc/x", Missing: "gone"},
			},
			Outputs: []restore.Output{{Path: "out", Key: data}},
		},
		{
			Number: 2, Place: "steps/02-train", Entry: 4, Name: "t", Evidence: schema.Attested, Image: image, Secrets: []string{"TOKEN"},
			Items: []restore.Item{{Key: data, Kind: "file", Role: schema.RoleInput, Place: "steps/02-train/x", Producer: 1, Members: []restore.Member{{Key: data, Producer: 1}}}},
			Gaps:  []schema.GapFact{{Rule: "dirty-tree", Detail: "x"}},
		},
	}
	for _, plan := range []restore.Plan{
		{Version: 1, Ref: "m", Key: data, Size: 9, Steps: steps[:1]},
		{
			Version: 1, Ref: "m@1", Name: "model:m@1", Key: data, Run: "r2", Size: 9, Steps: steps, Notes: []string{"n"},
			Images:   []restore.Item{{Key: image, Kind: "oci", Place: "images/sha256-" + image.Hex(), URI: "oci://registry.example/x"}},
			Resource: &restore.Item{Key: data, Kind: "file", Place: "resource/model.bin", Producer: 2},
		},
	} {
		raw, err := plan.Encode()
		if err != nil {
			f.Fatal(err)
		}
		if _, err := restore.ParsePlan(raw); err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		plan, err := restore.ParsePlan(raw)
		if err != nil {
			return
		}
		for _, s := range plan.Steps {
			for _, it := range s.Items {
				if it.Place != "" && !filepath.IsLocal(filepath.FromSlash(it.Place)) {
					t.Errorf("place %q leads out", it.Place)
				}
			}
		}
		encoded, err := plan.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := restore.ParsePlan(encoded)
		if err != nil {
			t.Fatalf("what was encoded is refused: %v", err)
		}
		if got, err := again.Encode(); err != nil || !bytes.Equal(got, encoded) {
			t.Errorf("encoding is not a fixed point: %v", err)
		}
	})
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte(`{"version":1,"state":"COMPLETE","planDigest":"00","plan":{"version":1,"ref":"m","size":3}}`))
	f.Add([]byte(`{"version":1,"state":"INCOMPLETE","planDigest":"","items":[{"place":"resource/m","key":"sha256:00","problem":"x"}],"trees":{"steps/01-x":"00"},"plan":{"version":1,"ref":"m","size":3}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := restore.ParseLock(raw)
		if err == nil && (l.Plan == nil || l.State != restore.Complete && l.State != restore.Incomplete) {
			t.Errorf("ParseLock took %+v", l)
		}
	})
}

// An image is laid out once, as an OCI layout, from its registry.
func TestRestoreImage(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/train"
	ref, err := name.ParseReference(repository + ":1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(256, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	hash, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.commit(map[string]string{"make.sh": "#!/bin/sh\necho $1 > $1.txt\n"})
	w.record(run.Options{Argv: []string{"./make.sh", "a"}, Outputs: []string{"a.txt"}, Image: repository + "@" + hash.String()})
	w.record(run.Options{Argv: []string{"./make.sh", "b"}, Inputs: []string{"a.txt"}, Outputs: []string{"b.txt"}, Image: repository + "@" + hash.String()})
	dir, src := t.TempDir(), w.sources()
	src.Fetchers["oci"] = oci.Fetcher{}
	plan, err := restore.NewPlan(t.Context(), w.view(), mustResolve(t, w, w.lastRun()), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := restore.Restore(t.Context(), plan, dir, src, nil)
	if err != nil || v.Result != restore.Complete {
		t.Fatalf("Restore: %+v, %v", v, err)
	}
	layout := filepath.Join(dir, "images", "sha256-"+hash.Hex)
	if key, err := (oci.Fetcher{}).Digest(t.Context(), layout); err != nil || key != schema.Key(hash.String()) {
		t.Errorf("the layout has the digest %s, %v; want %s", key, err, hash)
	}
	r := w.reproduce(plan, dir, nil)
	wantVerdict(t, r, schema.BitExact)
	if !strings.Contains(r.Isolation, "not in the recorded image "+hash.String()) {
		t.Errorf("isolation is %q, want that the image was not used", r.Isolation)
	}
	// An address in a statement is not an instruction to connect.
	src.MayFetch = func(r schema.Resource) error { return errors.New(r.URI + " is not a configured source") }
	plan, err = restore.NewPlan(t.Context(), w.view(), mustResolve(t, w, w.lastRun()), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	if missing := plan.Missing(); len(missing) != 1 || !strings.Contains(missing[0].Missing, "not a configured source") {
		t.Errorf("Missing() = %+v", missing)
	}
}

func mustResolve(t *testing.T, w *world, text string) lineage.Ref {
	t.Helper()
	ref, err := w.view().Resolve(text)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// The whole way over a real ledger: recorded, restored, reproduced, and the
// verdicts appended.
//
// It does not run beside other tests: a program that one of them is just
// starting would hold the ledger's lock for a moment after it was closed.
func TestThroughLedger(t *testing.T) {
	w := newWorld(t)
	w.chain(train)
	l := ledgertest.New(t)
	appendAll := func(statements ...schema.Statement) {
		t.Helper()
		var b schema.Batch
		for _, s := range statements {
			env, err := l.Observer.SignStatement(s)
			if err != nil {
				t.Fatal(err)
			}
			b.Envelopes = append(b.Envelopes, env)
		}
		if _, err := l.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for i := int64(1); i < w.log.Size(); i++ {
		e, err := w.log.Entry(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		s, err := e.Envelope.Statement()
		if err != nil {
			t.Fatal(err)
		}
		appendAll(s)
	}
	g, err := lineage.Open(filepath.Join(t.TempDir(), "lineage"), l, verify.Signers, verify.Trusted)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Follow(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	v, err := g.View(lineage.At{})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := v.Resolve("forecast")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := restore.NewPlan(t.Context(), v, ref, w.sources(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	verdict := w.restore(plan, dir, nil)
	result := w.reproduce(plan, dir, nil)
	wantVerdict(t, result, schema.BitExact)
	restored, err := verdict.Statement()
	if err != nil {
		t.Fatal(err)
	}
	reproduced, err := result.Statement()
	if err != nil {
		t.Fatal(err)
	}
	appendAll(restored, reproduced)
	if err := g.Follow(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if v, err = g.View(lineage.At{}); err != nil {
		t.Fatal(err)
	}
	e, err := v.Entry(v.Size() - 1)
	if err != nil || !strings.HasSuffix(e.Summary, schema.BitExact) {
		t.Errorf("the last entry says %q, %v; want %s", e.Summary, err, schema.BitExact)
	}
}
