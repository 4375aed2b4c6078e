package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// TestAppends checks that every contestant takes entries from several callers
// and that the tables name each; not how fast it is.
func TestAppends(t *testing.T) {
	opt := options{callers: []int{1, 16}, rounds: 1, box: 50 * time.Millisecond, entries: 64}
	quiet()
	scratch, remove, err := newScratch("") // t.TempDir lets no other user in
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	a, err := measureAppends(t.Context(), filepath.Join(scratch, "appends"), opt)
	if err != nil {
		t.Fatal(err)
	}
	for name, why := range a.Skipped {
		if strings.Contains(why, "-slow") {
			continue
		}
		if os.Getenv("RETRACE_TEST_NOSKIP") == "1" {
			t.Errorf("%s was left out: %s", name, why)
		}
		t.Logf("%s was left out: %s", name, why)
	}
	done := map[string]int{}
	for _, f := range a.Figures {
		if f.PerSecond.Median <= 0 || f.Times.Median <= 0 || f.Name != rawName && (f.P50Ms <= 0 || f.P99Ms < f.P50Ms) {
			t.Errorf("%+v", f)
		}
		done[f.Name]++
	}
	for _, c := range append(ours(), contestants()...) {
		if a.Skipped[c.Name] == "" && done[c.Name] != 2 {
			t.Errorf("%s has %d figures, want one for each number of callers", c.Name, done[c.Name])
		}
	}
	var plainText, md bytes.Buffer
	r := report{Appends: a}
	if err := errors.Join(r.print(&plainText, plain), r.print(&md, markdown)); err != nil {
		t.Fatal(err)
	}
	for _, c := range append(ours(), contestants()...) {
		for _, text := range []string{plainText.String(), md.String()} {
			if !strings.Contains(text, c.Name) {
				t.Errorf("the table does not name %s:\n%s", c.Name, text)
			}
		}
	}
}

func TestProofs(t *testing.T) {
	got, err := measureProofs(t.Context(), t.TempDir(), options{proofs: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		// A tree of 1,001 leaves has paths of at most 10 hashes; immudb's proof
		// is longer.
		if p.MadeUs <= 0 || p.ReadUs < p.MadeUs || p.VerifyUs <= 0 || p.Bytes < 320 {
			t.Errorf("%+v", p)
		}
	}
}

// TestProofsFail checks that what is timed as verifying does verify.
func TestProofsFail(t *testing.T) {
	provers, closeAll, err := openProvers(t.Context(), t.TempDir(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	for side, name := range []string{"retrace", "retrace with its signature", "immudb"} {
		p := provers[side]
		proof, _, err := p.prove(7)
		if err != nil {
			t.Fatal(err)
		}
		body, err := p.read(7)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.verify(7, body, proof); err != nil {
			t.Errorf("%s: verify = %v", name, err)
		}
		body = bytes.Clone(body)
		body[len(body)/2] ^= 1
		if err := p.verify(7, body, proof); err == nil {
			t.Errorf("%s: verify takes another body", name)
		}
	}
}

func TestModels(t *testing.T) {
	m, err := measureModels(t.Context(), t.TempDir(), options{models: 20, rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	if m.Entries != 140 || m.RawS.Median <= 0 || m.Times.Median <= m.AppendTimes.Median || m.VerifiedTimes.Median <= 0 {
		t.Errorf("%+v", m)
	}
	var b bytes.Buffer
	if err := (report{Models: m}).print(&b, markdown); err != nil || !strings.Contains(b.String(), "20 models of six steps: 140 signed statements") {
		t.Errorf("print = %v:\n%s", err, b.String())
	}
}

// TestAncestors checks that all sides answer alike and have their figures; that
// they answer alike is what measureAncestors checks.
func TestAncestors(t *testing.T) {
	scratch, remove, err := newScratch("") // t.TempDir lets no other user in
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	a, err := measureAncestors(t.Context(), filepath.Join(scratch, "ancestors"), options{models: 40, rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	if a.Asked != 40 || a.Answer < 18 || a.Bytes < 18*200 || len(a.Sides)+len(a.Skipped) != 5 {
		t.Errorf("%+v", a)
	}
	if os.Getenv("RETRACE_TEST_NOSKIP") == "1" && len(a.Skipped) > 0 {
		t.Errorf("left out: %v", a.Skipped)
	}
	for _, f := range append(a.Sides, a.Trip, a.Encode) {
		if f.P50Us.Median <= 0 || f.P99Us.Median < f.P50Us.Median || f.Times.Median <= 0 {
			t.Errorf("%+v", f)
		}
	}
	var b bytes.Buffer
	if err := (report{Ancestors: a}).print(&b, markdown); err != nil || !strings.Contains(b.String(), "40 models of six steps") || !strings.Contains(b.String(), "at most 3: ") {
		t.Errorf("print = %v:\n%s", err, b.String())
	}
}

// TestAncestorsDiffer checks that an answer with an edge too few, or another
// one, is found out.
func TestAncestorsDiffer(t *testing.T) {
	const model = "sha256:00"
	g := &graph{made: map[schema.Key][]edge{model: {newEdge(model, "sha256:01", 1), newEdge(model, "sha256:02", 1)}}}
	for name, wrong := range map[string][]edge{
		"too few":      {newEdge(model, "sha256:01", 1)},
		"another step": {newEdge(model, "sha256:01", 1), newEdge(model, "sha256:02", 2)},
		"one twice":    {newEdge(model, "sha256:01", 1), newEdge(model, "sha256:01", 1)},
	} {
		s := &side{name: name, ask: func(context.Context, schema.Key) (reply, error) { return reply{edges: wrong}, nil }}
		if _, err := new(ancestors).check(t.Context(), []*side{s}, []schema.Key{model}, g); err == nil {
			t.Errorf("%s: check = nil", name)
		}
	}
}

// TestMissing checks that what is not installed is left out with a reason, and
// that what is broken is an error.
func TestMissing(t *testing.T) {
	if why := skipped(errors.Join(&missingError{"nothing here"})); why != "nothing here" {
		t.Errorf("skipped(missing) = %q", why)
	}
	if why := skipped(exec.ErrNotFound); why != "" {
		t.Errorf("skipped(another error) = %q, want it to be an error", why)
	}
}

// TestGroup checks that a group commit answers each caller with its own
// group's result.
func TestGroup(t *testing.T) {
	g := newGroup(func(entries [][]byte) error {
		if string(entries[0]) == "bad" {
			return errors.New("refused")
		}
		return nil
	})
	defer g.close()
	if err := g.append(t.Context(), []byte("good")); err != nil {
		t.Errorf("append(good) = %v", err)
	}
	if err := g.append(t.Context(), []byte("bad")); err == nil {
		t.Error("append(bad) = nil")
	}
}

func TestRun(t *testing.T) {
	for _, args := range [][]string{{"-callers", "0"}, {"-rounds", "0"}, {"-dir", t.TempDir(), "nothing"}} {
		if err := run(context.Background(), args); err == nil {
			t.Errorf("run(%q) did not refuse", args)
		}
	}
	raw, err := json.Marshal(report{Appends: &appends{Figures: []figure{{Callers: 64, Name: "x"}}}})
	if err != nil || !strings.Contains(string(raw), `"callers":64`) {
		t.Errorf("report as JSON = %s, %v", raw, err)
	}
}
