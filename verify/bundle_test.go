package verify_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/lineage/lineagetest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// world is a log with the forecast, a step by a key that is trusted later, and
// its index.
type world struct {
	*lineagetest.Log
	view *lineage.View
	ci   *keys.Private
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{Log: lineagetest.New(t), ci: lineagetest.Key(t, 20)}
	lineagetest.Forecast(t, w.Log)
	w.AddBy(w.ci, lineagetest.Run{
		ID: "deploy", Argv: []string{"pack"}, Uses: []schema.Descriptor{lineagetest.As(schema.RoleInput, "model.json", lineagetest.From("train-2", lineagetest.File("model.json", "model weather until March")))},
		Makes: []schema.Descriptor{lineagetest.File("package.tar", "package")},
	}.Statement(t))
	w.Add(lineagetest.Trust(t, w.ci, nil))
	w.view = w.View(t)
	return w
}

// prove builds the bundle of ref's lineage, as `retrace prove` does.
func (w *world) prove(t testing.TB, text string, opt lineage.LineageOptions) *verify.Bundle {
	t.Helper()
	ref, err := w.view.Resolve(text)
	if err != nil {
		t.Fatal(err)
	}
	l, err := w.view.Lineage(t.Context(), ref, opt)
	if err != nil {
		t.Fatal(err)
	}
	claim := verify.Claim{
		Ref: text, Entry: -1, Root: ref.Start.Key, Run: ref.Start.Run, Direction: l.Direction, Depth: opt.Depth,
		Size: l.Size, Truncated: l.Truncated, Edges: l.Edges,
	}
	if ref.Name != "" {
		claim.Name, claim.Entry = ref.Name, ref.Entry
	}
	b, err := verify.Build(t.Context(), w.Log, claim, l.Entries...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// read writes the bundle out and reads it again, as a verifier gets it.
func read(t testing.TB, b *verify.Bundle) (*verify.Bundle, error) {
	t.Helper()
	raw, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return verify.ParseBundle(raw)
}

func TestBundleHolds(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		ref   string
		opt   lineage.LineageOptions
		edges int
	}{
		{"forecast@2", lineage.LineageOptions{}, 14},
		{"forecast", lineage.LineageOptions{}, 14},
		{"model:forecast@1", lineage.LineageOptions{}, 14},
		{string(lineagetest.FileKey("package")), lineage.LineageOptions{}, 15},
		{string(lineagetest.FileKey("package"))[:20], lineage.LineageOptions{}, 15},
		{"run:train-2", lineage.LineageOptions{}, 14},
		{"step:9", lineage.LineageOptions{}, 14},
		{"forecast@2", lineage.LineageOptions{Depth: 1}, 5},
		{"forecast@2", lineage.LineageOptions{Edges: 3}, 3},
		{string(lineagetest.FileKey("weather until March")), lineage.LineageOptions{Direction: schema.Downstream}, 5},
		{"git:" + lineagetest.CommitHex("first"), lineage.LineageOptions{Direction: schema.Downstream}, 16},
		{"s3://public/holidays.csv", lineage.LineageOptions{}, 0},
	} {
		t.Run(fmt.Sprint(c.ref, c.opt), func(t *testing.T) {
			b, err := read(t, w.prove(t, c.ref, c.opt))
			if err != nil {
				t.Fatal(err)
			}
			v, err := b.Verify(t.Context(), w.Verifier(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Edges) != c.edges {
				t.Errorf("%d edges, want %d", len(v.Edges), c.edges)
			}
			if v.SpeaksFor != w.Size() || v.TreeSize != w.Size() || v.Origin != lineagetest.Origin || v.Observer != w.Observer.ID() {
				t.Errorf("verdict %+v", v)
			}
			if len(v.Proven) < 3 || len(v.NotProven) < 3 {
				t.Errorf("proven %q, not proven %q", v.Proven, v.NotProven)
			}
			if cut := c.opt.Depth > 0 || c.opt.Edges > 0; cut != says(v.NotProven, "what lies") {
				t.Errorf("not proven %q: says that there may be more: %v", v.NotProven, !cut)
			}
			if !says(v.NotProven, "nothing was left out") {
				t.Errorf("not proven %q lacks completeness", v.NotProven)
			}
		})
	}
}

func says(lines []string, part string) bool {
	return slices.ContainsFunc(lines, func(s string) bool { return strings.Contains(s, part) })
}

// TestBundleNamesGaps checks that the verdict lists what has no recorded
// producer, and nothing that has one.
func TestBundleNamesGaps(t *testing.T) {
	w := newWorld(t)
	w.Add(lineagetest.Run{ID: "fetch", Argv: []string{"fetch"}, Makes: []schema.Descriptor{lineagetest.File("raw", "raw")}}.Statement(t)) // uses nothing
	w.Add(lineagetest.Run{ID: "use", Argv: []string{"use"}, Uses: []schema.Descriptor{lineagetest.File("raw", "raw"), lineagetest.File("found", "found")}, Makes: []schema.Descriptor{lineagetest.File("out", "out")}}.Statement(t))
	w.view = w.View(t)
	b, err := read(t, w.prove(t, string(lineagetest.FileKey("out")), lineage.LineageOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	v, err := b.Verify(t.Context(), w.Verifier(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !says(v.NotProven, "where found") || says(v.NotProven, "where raw") {
		t.Errorf("not proven: %q; want found without a producer, and raw with one", v.NotProven)
	}
}

// TestBundleFails edits a bundle that holds in every way that is thought of,
// and expects the exact reason.
func TestBundleFails(t *testing.T) {
	w := newWorld(t)
	other := func(e *schema.Edge) { e.To = lineagetest.FileKey("another thing") }
	swapped := newWorld(t)
	for _, c := range []struct {
		name  string
		edit  func(b *verify.Bundle)
		false bool // it was checked and does not hold; otherwise it could not be read
		says  string
	}{
		{"an edge points elsewhere", func(b *verify.Bundle) { other(&b.Claim.Edges[2]) }, true, "its edge 3 says"},
		{"an edge has another role", func(b *verify.Bundle) { b.Claim.Edges[0].Role = "image" }, true, "its edge 1 says"},
		{"an edge has another path", func(b *verify.Bundle) { b.Claim.Edges[3].Path = "other.csv" }, true, "its edge 4 says"},
		{"an edge is graded better", func(b *verify.Bundle) { b.Claim.Edges[0].Evidence = schema.Attested }, true, "attested by entry"},
		{"a claimed edge is graded better", func(b *verify.Bundle) {
			i := slices.IndexFunc(b.Claim.Edges, func(e schema.Edge) bool { return e.Evidence == schema.Claimed })
			b.Claim.Edges[i].Evidence = schema.Observed
		}, true, "observed by entry"},
		{"an edge is nearer", func(b *verify.Bundle) { b.Claim.Edges[6].Depth = 0 }, true, "its edge 7 says"},
		{"an edge is left out at the end", func(b *verify.Bundle) { b.Claim.Edges = b.Claim.Edges[:len(b.Claim.Edges)-1] }, true, "it leaves out an edge"},
		{"an edge is left out in the middle", func(b *verify.Bundle) { b.Claim.Edges = slices.Delete(b.Claim.Edges, 3, 4) }, true, "its edge 4 says"},
		{"edges change places", func(b *verify.Bundle) {
			e := b.Claim.Edges
			e[0], e[1] = e[1], e[0]
		}, true, "its edge 1 says"},
		{"an edge is added", func(b *verify.Bundle) {
			e := b.Claim.Edges[0]
			e.To, e.Entry = lineagetest.FileKey("more"), 7
			b.Claim.Edges = append(b.Claim.Edges, e)
		}, true, "no entry in the bundle states its edge 15"},
		{"it says that it was cut off", func(b *verify.Bundle) { b.Claim.Truncated = true }, true, "cut off"},
		{"another question", func(b *verify.Bundle) { b.Claim.Ref = "forecast@1" }, true, `to the question "forecast@1"`},
		{"another name", func(b *verify.Bundle) { b.Claim.Ref, b.Claim.Name = "forecast@1", "model:forecast@1" }, true, "that model:forecast@1 names"},
		{"named by another entry", func(b *verify.Bundle) { b.Claim.Entry = 9 }, true, "entry 9 does not state it"},
		{"named by an entry that is not there", func(b *verify.Bundle) { b.Claim.Entry = 6 }, true, "entry 6, which is to say so, is not in the bundle"},
		{"another run", func(b *verify.Bundle) { b.Claim.Run = "train-1" }, true, "names"},
		{"another root", func(b *verify.Bundle) { b.Claim.Root = lineagetest.FileKey("model weather until February") }, true, "names"},
		{"a size of the future", func(b *verify.Bundle) { b.Claim.Size = 99 }, true, "the checkpoint covers"},
		{"a size before the steps", func(b *verify.Bundle) { b.Claim.Size = 8 }, true, "rests on entry"},
		{"the other direction", func(b *verify.Bundle) { b.Claim.Direction = schema.Downstream }, true, "edge"},
		{"a direction that there is not", func(b *verify.Bundle) { b.Claim.Direction = "SIDEWAYS" }, false, "SIDEWAYS"},
		{"a depth that there is not", func(b *verify.Bundle) { b.Claim.Depth = -1 }, false, "negative"},
		{"a smaller depth", func(b *verify.Bundle) { b.Claim.Depth = 1 }, true, "no entry in the bundle states its edge"},
		{"an entry is dropped", func(b *verify.Bundle) { drop(b, 8) }, true, "its edge"},
		{"genesis is dropped", func(b *verify.Bundle) { drop(b, 0) }, false, "genesis, entry 0, is missing"},
		{"all entries are dropped", func(b *verify.Bundle) { b.Entries = []verify.BundleEntry{} }, false, "genesis"},
		{"bodies change places", func(b *verify.Bundle) {
			e := b.Entries
			e[1].Body, e[2].Body = e[2].Body, e[1].Body
		}, true, "entry is number"},
		{"entries change places", func(b *verify.Bundle) {
			e := b.Entries
			e[1], e[2] = e[2], e[1]
		}, false, "not in ascending order"},
		{"an entry stands twice", func(b *verify.Bundle) { b.Entries = append(b.Entries, b.Entries[len(b.Entries)-1]) }, false, "not in ascending order"},
		{"an entry claims another place", func(b *verify.Bundle) { b.Entries[1].Index-- }, true, "entry is number"},
		{"a proof is empty", func(b *verify.Bundle) { b.Entries[1].Proof = []string{} }, true, "entry is number"},
		{"a proof has a hash too many", func(b *verify.Bundle) { b.Entries[1].Proof = append(b.Entries[1].Proof, b.Entries[1].Proof[0]) }, true, "entry is number"},
		{"a proof is no proof", func(b *verify.Bundle) { b.Entries[1].Proof[0] = "AAAA" }, false, "not a list of hashes"},
		{"a body is edited", func(b *verify.Bundle) { b.Entries[2].Body = editBody(t, b.Entries[2].Body) }, true, "entry is number"},
		{"loose base64", func(b *verify.Bundle) { b.Entries[1].Body = b.Entries[1].Body[:40] + "\n" + b.Entries[1].Body[40:] }, false, "body"},
		{"a body and a commitment", func(b *verify.Bundle) { b.Entries[1].Commitment = base64.StdEncoding.EncodeToString(make([]byte, 32)) }, false, "either a body or a commitment"},
		{"another commitment", func(b *verify.Bundle) {
			b.Entries[1].Body, b.Entries[1].Commitment = "", base64.StdEncoding.EncodeToString(make([]byte, 32))
		}, true, "entry is number"},
		{"a withheld entry", func(b *verify.Bundle) { withhold(t, w, b, 9) }, false, "withheld"},
		{"another checkpoint", func(b *verify.Bundle) {
			b.Checkpoint = strings.Replace(b.Checkpoint, fmt.Sprintf("\n%d\n", w.Size()), fmt.Sprintf("\n%d\n", w.Size()+1), 1)
		}, true, "is not over this text"},
		{"no checkpoint", func(b *verify.Bundle) { b.Checkpoint = "" }, false, "checkpoint"},
		{"another format", func(b *verify.Bundle) { b.Format = "retrace bundle v2" }, false, "format"},
		{"entries of another ledger", func(b *verify.Bundle) {
			o := swapped
			o.Add(lineagetest.Model(t, "x", "1", "", lineagetest.File("x", "x")))
			o.view = o.View(t)
			b.Checkpoint = string(o.Checkpoint())
		}, true, "entry is number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := w.prove(t, "forecast@2", lineage.LineageOptions{})
			c.edit(b)
			b, err := read(t, b)
			if err == nil {
				_, err = b.Verify(t.Context(), w.Verifier(), nil)
			}
			checkError(t, err, c.false, c.says)
		})
	}
}

// checkError fails unless err is of the right sort and says why.
func checkError(t *testing.T, err error, isFalse bool, why string) {
	t.Helper()
	var no *verify.FalseError
	var malformed *verify.MalformedError
	switch {
	case err == nil:
		t.Fatal("it holds")
	case isFalse && !errors.As(err, &no), !isFalse && !errors.As(err, &malformed):
		t.Errorf("%T: %v; want it to be false: %v", err, err, isFalse)
	case !strings.Contains(err.Error(), why):
		t.Errorf("%v; want it to say %q", err, why)
	}
}

func drop(b *verify.Bundle, index int64) {
	b.Entries = slices.DeleteFunc(b.Entries, func(e verify.BundleEntry) bool { return e.Index == index })
}

func withhold(t *testing.T, w *world, b *verify.Bundle, index int64) {
	t.Helper()
	i := slices.IndexFunc(b.Entries, func(e verify.BundleEntry) bool { return e.Index == index })
	e, err := w.Entry(t.Context(), index)
	if i < 0 || err != nil {
		t.Fatalf("no entry %d in the bundle: %v", index, err)
	}
	b.Entries[i].Body, b.Entries[i].Commitment = "", base64.StdEncoding.EncodeToString(e.Commitment[:])
}

// editBody changes one letter of a statement, so that it still reads well.
func editBody(t *testing.T, body string) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(raw, []byte(`"sig":"`))
	if i < 0 {
		t.Fatal("the body holds no signature")
	}
	raw[i+len(`"sig":"`)] ^= 2
	return base64.StdEncoding.EncodeToString(raw)
}

func TestBundleEncoding(t *testing.T) {
	w := newWorld(t)
	raw, err := w.prove(t, "forecast@2", lineage.LineageOptions{}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify.ParseBundle(raw); err != nil {
		t.Fatal(err)
	}
	for name, edited := range map[string]string{
		"an unknown field":          strings.Replace(string(raw), `{"checkpoint"`, `{"also":1,"checkpoint"`, 1),
		"an unknown field of entry": strings.Replace(string(raw), `{"body"`, `{"also":1,"body"`, 1),
		"a space":                   strings.Replace(string(raw), `,"claim"`, `, "claim"`, 1),
		"no newline":                strings.TrimSuffix(string(raw), "\n"),
		"two newlines":              string(raw) + "\n",
		"a field twice":             strings.Replace(string(raw), `"format"`, `"format":"retrace bundle v1","format"`, 1),
		"an escape":                 strings.Replace(string(raw), "forecast", `\u0066orecast`, 1),
		"cut short":                 string(raw[:len(raw)/2]),
		"empty":                     "",
		"null":                      "null\n",
		"a list":                    "[]\n",
	} {
		if _, err := verify.ParseBundle([]byte(edited)); err == nil {
			t.Errorf("%s: the bundle is taken", name)
		} else {
			checkError(t, err, false, "malformed bundle")
		}
	}
}

func TestBundleNeedsTheKey(t *testing.T) {
	w := newWorld(t)
	b := w.prove(t, "forecast@2", lineage.LineageOptions{})
	for _, name := range []string{lineagetest.Origin, "another.example/log"} {
		vkey, err := lineagetest.Key(t, 9).VKey(name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := note.NewVerifier(vkey)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Verify(t.Context(), v, nil)
		checkError(t, err, true, "signature")
	}
}

// TestBundleOfAnEntry proves entries alone: one that states a step, one that
// this program cannot read, and an erased one.
func TestBundleOfAnEntry(t *testing.T) {
	w := newWorld(t)
	env, err := w.Observer.SignPayload("text/plain", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	odd := w.AddEnvelope(env, schema.DefaultNamespace)
	gone := w.AddUnsigned(lineagetest.Model(t, "gone", "1", "", lineagetest.File("g", "g")))
	w.Erase(gone, schema.Erased)
	for _, index := range []int64{0, 9, odd, gone} {
		b, err := verify.Build(t.Context(), w.Log, verify.Claim{Ref: fmt.Sprint("entry:", index), Entry: index, Size: w.Size()})
		if err != nil {
			t.Fatal(err)
		}
		if b, err = read(t, b); err != nil {
			t.Fatal(err)
		}
		v, err := b.Verify(t.Context(), w.Verifier(), nil)
		if err != nil {
			t.Errorf("entry %d: %v", index, err)
			continue
		}
		last := v.Entries[len(v.Entries)-1]
		if last.Index != index || last.Withheld != (index == gone) || (last.Unreadable != "") != (index == odd) {
			t.Errorf("entry %d: verdict %+v", index, last)
		}
		if (index == gone) != says(v.NotProven, "withheld or erased") {
			t.Errorf("entry %d: not proven %q", index, v.NotProven)
		}
		b.Claim.Ref = "entry:5"
		_, err = b.Verify(t.Context(), w.Verifier(), nil)
		checkError(t, err, true, "question")
		b.Claim.Ref, b.Claim.Depth = "", 3
		_, err = b.Verify(t.Context(), w.Verifier(), nil)
		checkError(t, err, true, "no root")
	}
}

// TestBundleWithOwnTrust grades by the verifier's keys and by no others.
func TestBundleWithOwnTrust(t *testing.T) {
	w := newWorld(t)
	b := w.prove(t, string(lineagetest.FileKey("package")), lineage.LineageOptions{})
	public := func(k *keys.Private) schema.PublicKey { return schema.PublicKey{ID: k.ID(), Key: k.Public()} }
	grades := func(opts *verify.Options) (deploy, train schema.Evidence) {
		t.Helper()
		v, err := b.Verify(t.Context(), w.Verifier(), opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range v.Edges {
			switch e.Step {
			case 11:
				deploy = e.Evidence
			case 9:
				train = e.Evidence
			}
		}
		if (opts == nil) == strings.Contains(v.Grades, "verifier") {
			t.Errorf("grades %q", v.Grades)
		}
		return deploy, train
	}
	for _, c := range []struct {
		name          string
		opts          *verify.Options
		deploy, train schema.Evidence
	}{
		{"the operator's", nil, schema.Attested, schema.Observed},
		{"only ci", &verify.Options{Trust: []schema.PublicKey{public(w.ci)}}, schema.Attested, schema.Claimed},
		{"only the observer", &verify.Options{Trust: []schema.PublicKey{public(w.Observer)}}, schema.Claimed, schema.Attested},
		{"nobody", &verify.Options{Trust: []schema.PublicKey{}}, schema.Claimed, schema.Claimed},
	} {
		if deploy, train := grades(c.opts); deploy != c.deploy || train != c.train {
			t.Errorf("%s: %s and %s, want %s and %s", c.name, deploy, train, c.deploy, c.train)
		}
	}
	// Without the entry that trusts ci, the operator's grade has no ground.
	drop(b, 12)
	_, err := b.Verify(t.Context(), w.Verifier(), nil)
	checkError(t, err, true, "attested by entry 11")
}

// FuzzParseBundle checks that what is read has one encoding, and that
// verifying never panics and never holds where the bundle was changed.
func FuzzParseBundle(f *testing.F) {
	w := newWorld(f)
	for _, ref := range []string{"forecast@2", "run:train-1", string(lineagetest.FileKey("package"))} {
		raw, err := w.prove(f, ref, lineage.LineageOptions{Depth: 2}).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("{}\n"))
	key := w.Verifier()
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := verify.ParseBundle(raw)
		var malformed *verify.MalformedError
		if err != nil {
			if !errors.As(err, &malformed) {
				t.Errorf("ParseBundle: %T: %v", err, err)
			}
			return
		}
		again, err := b.Marshal()
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("a bundle has two encodings: %v\n%q\n%q", err, raw, again)
		}
		var no *verify.FalseError
		if _, err := b.Verify(t.Context(), key, nil); err != nil && !errors.As(err, &no) && !errors.As(err, &malformed) {
			t.Errorf("Verify: %T: %v", err, err)
		}
	})
}
