package replay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
	"github.com/retrace-ledger/retrace/verify/replay"
)

var errUnreachable = errors.New("the disk is gone")

// history fills a world with a bit of everything that is honest.
func history(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	ci := newKey(t, 7)
	w.add(w.sign(ci, schema.AttestationV1, schema.Attestation{Claim: "too early"}, subject("a"))) // 1: claimed
	w.trust("trust", ci)                                                                          // 2
	w.add(w.sign(ci, schema.AttestationV1, schema.Attestation{Claim: "approved"}, subject("b")))  // 3: attested
	first := w.ref("one", "")                                                                     // 4
	second := w.ref("two", first)                                                                 // 5
	w.trust("revoke", ci)                                                                         // 6
	w.add(w.sign(ci, schema.AttestationV1, schema.Attestation{Claim: "too late"}, subject("c")))  // 7: claimed
	w.note("to be erased")                                                                        // 8
	w.erase(8, true)                                                                              // 9
	w.note("withheld")                                                                            // 10
	w.note("withheld too")                                                                        // 11
	w.withhold(10)
	w.withhold(11)
	w.ref("three", second) // 12
	unsigned, err := w.statement(schema.AttestationV1, schema.Attestation{Claim: "somebody"}, subject("d")).Encode()
	check(t, err)
	env, err := schema.NewEnvelope(schema.PayloadType, unsigned)
	check(t, err)
	w.add(env) // 13: claimed
	return w
}

func TestReplay(t *testing.T) {
	w := history(t)
	c := w.checkpoint()
	got, err := w.run(replay.New(w.verifier), c)
	check(t, err)
	want := replay.Report{
		Origin: origin, Size: 14, Root: c.Root[:], Present: 11, Erased: 1, Withheld: 2,
		Attested: 1, Observed: 7, Claimed: 3, Signatures: 9, UnknownSignatures: 1, TrustEntries: 2,
		Links: 2, Beginnings: 1, WithheldRanges: []replay.Range{{From: 10, To: 12}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
	if !got.OK() {
		t.Errorf("an honest log has findings: %v", got.Findings)
	}
}

// TestReplayLies has the log lie in every way that a replay looks for. Each
// lie is signed into the checkpoint, unless it is told about a log that was
// signed before.
func TestReplayLies(t *testing.T) {
	forge := func(w *world, id string) schema.Envelope {
		payload, err := w.statement(schema.AttestationV1, schema.Attestation{Claim: "forged"}, subject("x")).Encode()
		check(w.t, err)
		env, err := schema.NewEnvelope(schema.PayloadType, payload, schema.Signature{KeyID: id, Sig: make([]byte, 64)})
		check(w.t, err)
		return env
	}
	for name, test := range map[string]struct {
		before func(w *world) // is under the checkpoint
		after  func(w *world) // is told beside it
		kind   replay.Kind
		entry  int64
		faults int64
	}{
		"altered body": {after: func(w *world) {
			body := bytes.Clone(w.entries[3].Body)
			body[len(body)-20] ^= 1
			w.entries[3].Body = body
		}, kind: replay.KindBody, entry: 3, faults: 1},
		"wrong commitment": {after: func(w *world) { w.entries[3].Commitment[0] ^= 1 }, kind: replay.KindBody, entry: 3, faults: 2},
		"altered body and commitment": {after: func(w *world) {
			w.entries[3].Body = w.entries[13].Body
			w.entries[3].Commitment = w.entries[13].Commitment
		}, kind: replay.KindTime, entry: 4, faults: 2},
		"present without a body":        {after: func(w *world) { w.entries[3].Body = nil }, kind: replay.KindBody, entry: 3, faults: 1},
		"commitment to what is no body": {before: func(w *world) { w.addBody([]byte("nothing")) }, kind: replay.KindBody, entry: 14, faults: 1},
		"dropped entry":                 {after: func(w *world) { w.entries = append(w.entries[:3:3], w.entries[4:]...) }, kind: replay.KindOrder, entry: 3, faults: 1},
		"dropped and renumbered": {after: func(w *world) {
			w.entries = append(w.entries[:13:13], w.entries[13])
			w.entries[12], w.entries[13] = w.entries[13], w.entries[12]
			w.entries[12].Index, w.entries[13].Index = 12, 13
		}, kind: replay.KindTime, entry: 13, faults: 2},
		"swapped entries":            {after: func(w *world) { w.entries[3], w.entries[4] = w.entries[4], w.entries[3] }, kind: replay.KindOrder, entry: 3, faults: 1},
		"shorter":                    {after: func(w *world) { w.entries = w.entries[:12] }, kind: replay.KindShort, entry: 12, faults: 1},
		"forged observer":            {before: func(w *world) { w.add(forge(w, w.observer.ID())) }, kind: replay.KindObserver, entry: 14, faults: 1},
		"bad signature":              {before: func(w *world) { w.add(forge(w, newKey(w.t, 7).ID())) }, kind: replay.KindSignature, entry: 14, faults: 1},
		"decreasing time":            {before: func(w *world) { w.now = w.now.Add(-time.Hour); w.note("late") }, kind: replay.KindTime, entry: 14, faults: 1},
		"erased without explanation": {before: func(w *world) { w.erase(w.note("gone"), false) }, kind: replay.KindErasure, entry: 14, faults: 1},
		"erased by somebody": {before: func(w *world) {
			gone := w.note("gone")
			env := w.erasure(gone, w.entries[gone].Commitment)
			s, err := env.Statement()
			check(w.t, err)
			env, err = newKey(w.t, 7).SignStatement(s)
			check(w.t, err)
			w.add(env)
			w.erase(gone, false)
		}, kind: replay.KindErasure, entry: 14, faults: 1},
		"erased and still there": {before: func(w *world) { w.add(w.erasure(3, w.entries[3].Commitment)) }, kind: replay.KindErasure, entry: 14, faults: 1},
		"erasure of another":     {before: func(w *world) { w.erase(w.note("gone"), false); w.add(w.erasure(14, [32]byte{1})) }, kind: replay.KindErasure, entry: 15, faults: 2},
		"erasure of the future":  {before: func(w *world) { w.add(w.erasure(99, [32]byte{})) }, kind: replay.KindErasure, entry: 14, faults: 1},
		"second genesis":         {before: func(w *world) { w.add(w.genesis(origin, w.log, w.observer)) }, kind: replay.KindGenesis, entry: 14, faults: 1},
		"broken link":            {before: func(w *world) { w.ref("four", strings.Repeat("ab", 32)) }, kind: replay.KindChain, entry: 14, faults: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := history(t)
			if test.before != nil {
				test.before(w)
			}
			c := w.checkpoint()
			if test.after != nil {
				test.after(w)
			}
			got, err := w.run(replay.New(w.verifier), c)
			check(t, err)
			if got.OK() || got.Faults != test.faults {
				t.Fatalf("findings %v, want %d", got.Findings, test.faults)
			}
			if wrong := test.after != nil; wrong && test.faults == 2 && got.Findings[1].Kind != replay.KindRoot {
				t.Errorf("findings %v, want the second about the root", got.Findings)
			}
			if f := got.Findings[0]; f.Kind != test.kind || f.Entry != test.entry {
				t.Errorf("first finding %q of entry %d, want %s of entry %d: %v", f.Kind, f.Entry, test.kind, test.entry, got.Findings)
			}
		})
	}
}

func TestReplayGenesis(t *testing.T) {
	for name, begin := range map[string]func(w *world){
		"of another log":      func(w *world) { w.add(w.genesis("other.example/log", w.log, w.observer)) },
		"of another key":      func(w *world) { w.add(w.genesis(origin, newKey(w.t, 9), w.observer)) },
		"of another observer": func(w *world) { w.add(w.genesis(origin, w.log, newKey(w.t, 9))) },
		"no genesis":          func(w *world) { w.note("no genesis") },
		"withheld":            func(w *world) { w.add(w.genesis(origin, w.log, w.observer)); w.withhold(0) },
	} {
		t.Run(name, func(t *testing.T) {
			w := emptyWorld(t)
			begin(w)
			w.note("more")
			got, err := w.run(replay.New(w.verifier), w.checkpoint())
			check(t, err)
			if got.Faults != 1 || got.Findings[0].Kind != replay.KindGenesis || got.Findings[0].Entry != 0 {
				t.Errorf("report %+v, want one finding about genesis", got)
			}
			if known := name == "of another key"; got.Observed != 0 && !known { // there it is said at the end that no rotation leads to the key
				t.Errorf("report %+v, want nobody observed", got)
			}
		})
	}
}

// TestReplayUnreadable counts what a newer program wrote: that is no fault.
func TestReplayUnreadable(t *testing.T) {
	w := newWorld(t)
	env, err := w.observer.SignPayload("application/vnd.in-toto+json", []byte(`{"_type":"https://in-toto.io/Statement/v9"}`))
	check(t, err)
	w.add(env)
	got, err := w.run(replay.New(w.verifier), w.checkpoint())
	check(t, err)
	if !got.OK() || got.Unreadable != 1 || len(got.UnreadableList) != 1 || got.UnreadableList[0].Entry != 1 {
		t.Errorf("report %+v, want entry 1 as unreadable and no finding", got)
	}
}

// TestReplayOpenLink does not call a link broken that a body which is not here
// may hold.
func TestReplayOpenLink(t *testing.T) {
	w := newWorld(t)
	second := w.ref("two", w.ref("one", ""))
	w.withhold(2)
	w.ref("three", second)
	got, err := w.run(replay.New(w.verifier), w.checkpoint())
	check(t, err)
	if !got.OK() || got.OpenLinks != 1 || got.Links != 0 {
		t.Errorf("report %+v, want one open link and no finding", got)
	}
}

// TestReplayUnknown ends with an error, not a finding, where the log cannot be
// read.
func TestReplayUnknown(t *testing.T) {
	w := history(t)
	w.fail = 6
	r := replay.New(w.verifier)
	got, err := w.run(r, w.checkpoint())
	if !errors.Is(err, errUnreachable) || !got.OK() || r.Size() != 6 {
		t.Errorf("Run = %v after %d entries with %v, want the log's error after 6 and no finding", err, r.Size(), got.Findings)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.fail = -1
	for _, err := range replay.New(w.verifier).Run(ctx, w, w.checkpoint(), nil) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Run yielded %v, want the context's error", err)
		}
	}
}

// TestResume stops a replay after every entry, with and without faults below:
// going on from its state ends with the same report.
func TestResume(t *testing.T) {
	honest := history(t)
	lying := history(t)
	lying.now = lying.now.Add(-time.Hour)
	lying.note("late")
	lying.erase(3, false)
	lying.ref("four", strings.Repeat("ab", 32))
	for name, w := range map[string]*world{"honest": honest, "lying": lying} {
		c := w.checkpoint()
		want, err := w.run(replay.New(w.verifier), c)
		check(t, err)
		for at := range int64(len(w.entries)) {
			w.fail = at
			r := replay.New(w.verifier)
			if _, err := w.run(r, c); !errors.Is(err, errUnreachable) {
				t.Fatal(err)
			}
			w.fail = -1
			raw, err := r.State()
			check(t, err)
			if r, err = replay.Resume(raw, w.verifier); err != nil {
				t.Fatal(err)
			}
			check(t, r.Confirm(c, w.prove))
			got, err := w.run(r, c)
			check(t, err)
			if got.ResumedAt != at {
				t.Errorf("%s: resumed at %d, want %d", name, got.ResumedAt, at)
			}
			got.ResumedAt = 0
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: report after resuming at %d (-want +got):\n%s", name, at, d)
			}
		}
	}
}

// TestEraseBetweenRuns erases what an earlier run read.
func TestEraseBetweenRuns(t *testing.T) {
	w := history(t)
	r := replay.New(w.verifier)
	_, err := w.run(r, w.checkpoint())
	check(t, err)
	w.erase(3, true)
	got, err := w.run(r, w.checkpoint())
	check(t, err)
	if !got.OK() || got.Size != 15 {
		t.Errorf("report %+v, want no finding at size 15", got)
	}
}

// TestConfirm goes on from the state of a log that has been rewritten since.
func TestConfirm(t *testing.T) {
	w := history(t)
	r := replay.New(w.verifier)
	before := w.checkpoint()
	_, err := w.run(r, before)
	check(t, err)
	state, err := r.State()
	check(t, err)
	resume := func(t *testing.T) *replay.Replay {
		r, err := replay.Resume(state, w.verifier)
		check(t, err)
		return r
	}
	t.Run("grown", func(t *testing.T) {
		grown := *w
		grown.note("more")
		check(t, resume(t).Confirm(grown.checkpoint(), grown.prove))
	})
	for name, rewrite := range map[string]func(*world){
		"forked": func(w *world) {
			w.entries = w.entries[:9:9]
			w.note("x")
			w.note("y")
			w.note("z")
			w.note("a")
			w.note("b")
		},
		"forked and grown": func(w *world) {
			w.entries = w.entries[:9:9]
			for i := range 9 {
				w.note(fmt.Sprint(i))
			}
		},
		"rolled back": func(w *world) { w.entries = w.entries[:9:9] },
	} {
		t.Run(name, func(t *testing.T) {
			other := *w
			rewrite(&other)
			c := other.checkpoint()
			var fork *replay.ForkError
			if err := resume(t).Confirm(c, other.prove); !errors.As(err, &fork) || !bytes.Equal(fork.Old, before.Note) || !bytes.Equal(fork.New, c.Note) {
				t.Errorf("Confirm = %v, want a ForkError with both notes", err)
			}
		})
	}
}

func TestResumeRefuses(t *testing.T) {
	w := history(t)
	r := replay.New(w.verifier)
	_, err := w.run(r, w.checkpoint())
	check(t, err)
	state, err := r.State()
	check(t, err)
	for i := range state {
		bad := bytes.Clone(state)
		bad[i] ^= 1
		var malformed *verify.MalformedError
		if _, err := replay.Resume(bad, w.verifier); !errors.As(err, &malformed) {
			t.Fatalf("Resume of a state with byte %d altered: %v, want a MalformedError", i, err)
		}
	}
	vkey, err := newKey(t, 9).VKey(origin)
	check(t, err)
	other, err := note.NewVerifier(vkey)
	check(t, err)
	var no *verify.FalseError
	if _, err := replay.Resume(state, other); !errors.As(err, &no) {
		t.Errorf("Resume of another key's state: %v, want a FalseError", err)
	}
}

func TestStatement(t *testing.T) {
	w := history(t)
	c := w.checkpoint()
	report, err := w.run(replay.New(w.verifier), c)
	check(t, err)
	at := epoch.Add(time.Hour)
	policy := replay.Policy{Key: "k", Quorum: "quorum none", Lineage: true}
	read := func(r replay.Report) (schema.Statement, schema.VSA) {
		s, err := policy.Statement(r, c, schema.Verifier{ID: "https://example.com/auditor"}, at)
		check(t, err)
		var vsa schema.VSA
		check(t, schema.DecodePredicate(s, true, &vsa))
		return s, vsa
	}
	s, vsa := read(report)
	if vsa.VerificationResult != "PASSED" || !vsa.TimeVerified.Equal(at) || s.Subject[0].Name != origin ||
		cmp.Diff(vsa.VerifiedLevels, []string{replay.LevelReplayed, replay.LevelLineage, replay.LevelWitnessed}) != "" {
		t.Errorf("statement %+v, %+v", s.Subject, vsa)
	}
	var again replay.Report
	check(t, json.Unmarshal(vsa.Replay, &again, json.RejectUnknownMembers(true)))
	if d := cmp.Diff(report, again); d != "" {
		t.Errorf("the report in the statement (-want +got):\n%s", d)
	}
	if !bytes.Equal(vsa.InputAttestations[0].Content, c.Note) {
		t.Error("the checkpoint is not the statement's input")
	}
	report.Faults, report.Findings = 1, []replay.Finding{{Entry: 3, Kind: replay.KindBody, Problem: "altered"}}
	if _, vsa := read(report); vsa.VerificationResult != "FAILED" || vsa.Reasons[0] != "entry 3: body: altered" || vsa.VerifiedLevels[0] != "FAILED" {
		t.Errorf("statement of a failed audit: %+v", vsa)
	}
}
