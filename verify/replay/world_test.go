package replay_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
	"github.com/retrace-ledger/retrace/verify/replay"
)

const origin = "replay.example/test"

var epoch = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// world is a log in memory that can be told to lie. Keys and salts are fixed.
type world struct {
	t        testing.TB
	observer *keys.Private
	log      *keys.Private
	verifier note.Verifier
	signer   note.Signer
	now      time.Time
	entries  []schema.Entry
	fail     int64 // entry that cannot be read; -1 for none
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB, n byte) *keys.Private {
	t.Helper()
	seed := make([]byte, 32)
	seed[0] = n
	k, err := keys.FromSeed(seed)
	check(t, err)
	return k
}

// newWorld is a log with its genesis.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := emptyWorld(t)
	w.add(w.genesis(origin, w.log, w.observer))
	return w
}

func emptyWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, observer: newKey(t, 1), log: newKey(t, 2), now: epoch, fail: -1}
	var err error
	w.signer, err = w.log.NoteSigner(origin)
	check(t, err)
	vkey, err := w.log.VKey(origin)
	check(t, err)
	w.verifier, err = note.NewVerifier(vkey)
	check(t, err)
	return w
}

func (w *world) genesis(origin string, log, observer *keys.Private) schema.Envelope {
	w.t.Helper()
	vkey, err := log.VKey(origin)
	check(w.t, err)
	pem, err := observer.PublicPEM()
	check(w.t, err)
	return w.sign(w.observer, schema.GenesisV1, schema.Genesis{Format: 1, Origin: origin, LogKey: vkey, ObserverKey: pem}, subject(vkey))
}

func subject(content string) schema.Descriptor {
	return schema.Descriptor{Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(content)).Hex()}}
}

func (w *world) statement(predicateType string, predicate any, subjects ...schema.Descriptor) schema.Statement {
	w.t.Helper()
	s, err := schema.NewStatement(predicateType, predicate, subjects...)
	check(w.t, err)
	return s
}

func (w *world) sign(k *keys.Private, predicateType string, predicate any, subjects ...schema.Descriptor) schema.Envelope {
	w.t.Helper()
	env, err := k.SignStatement(w.statement(predicateType, predicate, subjects...))
	check(w.t, err)
	return env
}

// body is an encoded body recorded now.
func (w *world) body(env schema.Envelope) []byte {
	w.t.Helper()
	b := schema.Body{Header: schema.Header{RecordedAt: w.now, Namespace: schema.DefaultNamespace, Source: "test"}, Envelope: env.Raw}
	binary.BigEndian.PutUint64(b.Salt[:], uint64(len(w.entries))+1)
	raw, err := b.Encode()
	check(w.t, err)
	return raw
}

// add appends an envelope, a second after the one before.
func (w *world) add(env schema.Envelope) int64 {
	w.t.Helper()
	return w.addBody(w.body(env))
}

func (w *world) addBody(raw []byte) int64 {
	w.now = w.now.Add(time.Second)
	index := int64(len(w.entries))
	w.entries = append(w.entries, schema.Entry{Index: index, Commitment: schema.Commitment(raw), State: schema.Present, Body: raw})
	return index
}

// note appends a statement that the observer signed.
func (w *world) note(text string) int64 {
	w.t.Helper()
	return w.add(w.sign(w.observer, schema.AttestationV1, schema.Attestation{Claim: text}, subject(text)))
}

// ref appends a statement about a ref and returns its digest.
func (w *world) ref(commit, previous string) string {
	w.t.Helper()
	env := w.sign(w.observer, schema.RefV1, schema.Ref{Repository: "https://example.com/r", Ref: "refs/heads/main", Previous: previous},
		schema.Descriptor{Digest: schema.DigestSet{schema.GitCommit: schema.BytesKey([]byte(commit)).Hex()[:40]}})
	w.add(env)
	return schema.BytesKey(env.Payload).Hex()
}

func (w *world) trust(action string, k *keys.Private) int64 {
	w.t.Helper()
	pem, err := k.PublicPEM()
	check(w.t, err)
	p := schema.Trust{Action: action, KeyID: k.ID(), Key: pem}
	if action == "revoke" {
		p.NotAfter = w.now
	}
	return w.add(w.sign(w.observer, schema.TrustV1, p, subject(pem)))
}

// erase takes the body of an entry away and, with explain, says so.
func (w *world) erase(index int64, explain bool) {
	w.t.Helper()
	c := w.entries[index].Commitment
	if explain {
		w.add(w.erasure(index, c))
	}
	w.entries[index] = schema.Entry{Index: index, Commitment: c, State: schema.Erased}
}

func (w *world) erasure(index int64, c [32]byte) schema.Envelope {
	w.t.Helper()
	return w.sign(w.observer, schema.ErasureV1, schema.Erasure{Index: index, Reason: "asked to"},
		schema.Descriptor{Digest: schema.DigestSet{schema.SHA256: fmt.Sprintf("%x", c)}})
}

func (w *world) withhold(index int64) {
	w.entries[index] = schema.Entry{Index: index, Commitment: w.entries[index].Commitment, State: schema.Withheld}
}

// hashes are the stored hashes of the tree over the commitments.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = h[x]
	}
	return out, nil
}

func (w *world) hashes() hashes {
	w.t.Helper()
	var all hashes
	for i, e := range w.entries {
		more, err := tlog.StoredHashes(int64(i), e.Commitment[:], all)
		check(w.t, err)
		all = append(all, more...)
	}
	return all
}

// checkpoint signs the log as it stands.
func (w *world) checkpoint() verify.Checkpoint {
	w.t.Helper()
	size := int64(len(w.entries))
	root, err := tlog.TreeHash(size, w.hashes())
	check(w.t, err)
	raw, err := note.Sign(&note.Note{Text: verify.FormatCheckpoint(origin, size, root)}, w.signer)
	check(w.t, err)
	c, err := verify.OpenCheckpoint(raw, w.verifier)
	check(w.t, err)
	return c
}

func (w *world) prove(older, newer int64) ([]tlog.Hash, error) {
	return tlog.ProveTree(newer, older, w.hashes())
}

func (w *world) Entry(_ context.Context, index int64) (schema.Entry, error) {
	return w.entries[index], nil
}

func (w *world) Entries(_ context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		for i := from; i < int64(len(w.entries)); i++ {
			if i == w.fail {
				yield(schema.Entry{}, errUnreachable)
				return
			}
			if !yield(w.entries[i], nil) {
				return
			}
		}
	}
}

// run replays the log to c and returns the report.
func (w *world) run(r *replay.Replay, c verify.Checkpoint) (replay.Report, error) {
	w.t.Helper()
	var yielded []replay.Finding
	var failed error
	for f, err := range r.Run(w.t.Context(), w, c, nil) {
		if err != nil {
			failed = err
			break
		}
		yielded = append(yielded, f)
	}
	report, err := r.Report()
	check(w.t, err)
	if !slices.Equal(yielded, report.Findings) && report.ResumedAt == 0 {
		w.t.Errorf("Run yielded %v, and the report has %v", yielded, report.Findings)
	}
	return report, failed
}
