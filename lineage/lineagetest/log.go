// Package lineagetest holds a log in memory and writes the statements of small
// worlds into it, so that tests of the graph, of pictures and of bundles say
// what happened and not how it is encoded.
package lineagetest

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Origin names every Log.
const Origin = "lineagetest/0000000000000000"

// Epoch is when entry 0 was recorded; each entry comes a minute after the one
// before.
var Epoch = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// Log is a ledger in memory. Two logs to which the same was added are equal,
// byte for byte: keys and salts are fixed.
type Log struct {
	t        testing.TB
	Observer *keys.Private
	key      *keys.Private // of the log, in force
	before   *keys.Private // of the log, where the last entry rotated it
	entries  []schema.Entry
	hashes   tree
}

// New returns a log that holds its genesis.
func New(t testing.TB) *Log {
	t.Helper()
	l := &Log{t: t, Observer: Key(t, 1), key: Key(t, 2)}
	vkey, err := l.key.VKey(Origin)
	check(t, err)
	pem, err := l.Observer.PublicPEM()
	check(t, err)
	subject := schema.Descriptor{Name: "log key", Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(vkey)).Hex()}}
	l.Add(Statement(t, schema.GenesisV1, schema.Genesis{Format: 1, Origin: Origin, LogKey: vkey, ObserverKey: pem}, subject))
	return l
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Key is the key number n, the same in every test.
func Key(t testing.TB, n byte) *keys.Private {
	t.Helper()
	seed := make([]byte, 32)
	seed[0] = n
	k, err := keys.FromSeed(seed)
	check(t, err)
	return k
}

// Add appends a statement signed by the observer and returns its index.
func (l *Log) Add(s schema.Statement) int64 {
	l.t.Helper()
	return l.AddBy(l.Observer, s)
}

// AddBy appends a statement signed by key.
func (l *Log) AddBy(key *keys.Private, s schema.Statement) int64 {
	l.t.Helper()
	env, err := key.SignStatement(s)
	check(l.t, err)
	return l.AddEnvelope(env, schema.DefaultNamespace)
}

// AddUnsigned appends a statement that nobody signed.
func (l *Log) AddUnsigned(s schema.Statement) int64 {
	l.t.Helper()
	payload, err := s.Encode()
	check(l.t, err)
	env, err := schema.NewEnvelope(schema.PayloadType, payload)
	check(l.t, err)
	return l.AddEnvelope(env, schema.DefaultNamespace)
}

// AddEnvelope appends an envelope.
func (l *Log) AddEnvelope(env schema.Envelope, namespace string) int64 {
	l.t.Helper()
	index := int64(len(l.entries))
	body := schema.Body{Header: schema.Header{RecordedAt: RecordedAt(index), Namespace: namespace, Source: "test"}, Envelope: env.Raw}
	binary.BigEndian.PutUint64(body.Salt[:], uint64(index)+1)
	raw, err := body.Encode()
	check(l.t, err)
	e, err := schema.ParseEntry(index, raw)
	check(l.t, err)
	l.entries = append(l.entries, e)
	stored, err := tlog.StoredHashes(index, e.Commitment[:], l.hashes)
	check(l.t, err)
	l.hashes = append(l.hashes, stored...)
	l.before = nil
	return index
}

// Key is the private log key in force.
func (l *Log) Key() *keys.Private { return l.key }

// RotateLog puts next in the place of the log key, as a ledger does.
func (l *Log) RotateLog(next *keys.Private) int64 {
	l.t.Helper()
	index := l.AddRotation(schema.RoleLog, next, nil, l.key, next, l.Observer)
	l.before, l.key = l.key, next
	return index
}

// RotateObserver puts next in the place of the observer, as a ledger does.
func (l *Log) RotateObserver(next *keys.Private) int64 {
	l.t.Helper()
	index := l.AddRotation(schema.RoleObserver, next, nil, l.Observer, next)
	l.Observer = next
	return index
}

// AddRotation appends the statement that next takes the place of the key in
// force, signed by whomever, and changes no key.
func (l *Log) AddRotation(role string, next *keys.Private, change func(*schema.Trust), by ...*keys.Private) int64 {
	l.t.Helper()
	s := Trust(l.t, next, func(p *schema.Trust) {
		p.Action, p.Role, p.NotBefore = "rotate", role, RecordedAt(l.Size())
		p.Replaces = l.key.ID()
		if role == schema.RoleObserver {
			p.Replaces = l.Observer.ID()
		}
		if change != nil {
			change(p)
		}
	})
	payload, err := s.Encode()
	check(l.t, err)
	env, err := by[0].SignPayload(schema.PayloadType, payload, by[1:]...)
	check(l.t, err)
	return l.AddEnvelope(env, schema.DefaultNamespace)
}

// RecordedAt is when entry index of every Log was recorded.
func RecordedAt(index int64) time.Time { return Epoch.Add(time.Duration(index) * time.Minute) }

// Prefix is the log as it was when it had size entries.
func (l *Log) Prefix(size int64) *Log {
	p := *l
	p.entries, p.hashes = l.entries[:size:size], l.hashes[:tlog.StoredHashCount(size):tlog.StoredHashCount(size)]
	return &p
}

// Erase takes the body of an entry away, from this Log and not from others that
// it is a prefix of.
func (l *Log) Erase(index int64, state schema.State) {
	e := l.entries[index]
	l.entries = slices.Clone(l.entries)
	l.entries[index] = schema.Entry{Index: index, Commitment: e.Commitment, State: state}
}

// EraseFor erases the entry at index as a ledger does, with an entry that says
// so, and returns the index of that. resources are those that others mention.
func (l *Log) EraseFor(index int64, reason string, resources ...schema.Key) int64 {
	l.t.Helper()
	slices.Sort(resources)
	about := schema.Descriptor{Digest: schema.DigestSet{schema.SHA256: hex.EncodeToString(l.entries[index].Commitment[:])}}
	l.Erase(index, schema.Erased)
	return l.Add(Statement(l.t, schema.ErasureV1, schema.Erasure{Index: index, Reason: reason, By: "Ada", Resources: resources}, about))
}

// tree is a store of Merkle hashes.
type tree []tlog.Hash

// ReadHashes implements tlog.HashReader.
func (t tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(t)) {
			return nil, fmt.Errorf("no hash %d", x)
		}
		out[i] = t[x]
	}
	return out, nil
}

// Size implements lineage.Log.
func (l *Log) Size() int64 { return int64(len(l.entries)) }

// Entry implements lineage.Log.
func (l *Log) Entry(_ context.Context, index int64) (schema.Entry, error) {
	if index < 0 || index >= l.Size() {
		return schema.Entry{}, fmt.Errorf("no entry %d", index)
	}
	return l.entries[index], nil
}

// Entries implements lineage.Log.
func (l *Log) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return func(yield func(schema.Entry, error) bool) {
		for _, e := range l.entries[from:] {
			if err := ctx.Err(); err != nil {
				yield(schema.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Checkpoint implements verify.ProofLog.
func (l *Log) Checkpoint() []byte {
	l.t.Helper()
	root, err := tlog.TreeHash(l.Size(), l.hashes)
	check(l.t, err)
	signer, err := l.key.NoteSigner(Origin)
	check(l.t, err)
	signers := []note.Signer{signer}
	if l.before != nil {
		before, err := l.before.NoteSigner(Origin)
		check(l.t, err)
		signers = append(signers, before)
	}
	signed, err := note.Sign(&note.Note{Text: verify.FormatCheckpoint(Origin, l.Size(), root)}, signers...)
	check(l.t, err)
	return signed
}

// ProveInclusion implements verify.ProofLog.
func (l *Log) ProveInclusion(_ context.Context, index, size int64) ([]tlog.Hash, error) {
	return tlog.ProveRecord(size, index, l.hashes)
}

// Verifier is the public key of the log.
func (l *Log) Verifier() note.Verifier {
	l.t.Helper()
	vkey, err := l.key.VKey(Origin)
	check(l.t, err)
	v, err := note.NewVerifier(vkey)
	check(l.t, err)
	return v
}

// Graph is a new index that has followed the log.
func (l *Log) Graph(t testing.TB) *lineage.Graph {
	t.Helper()
	g := l.Open(t, t.TempDir())
	check(t, g.Follow(t.Context(), l))
	return g
}

// Open opens the index in dir, which is closed when the test ends.
func (l *Log) Open(t testing.TB, dir string) *lineage.Graph {
	t.Helper()
	g, err := lineage.Open(dir, l, verify.Signers, verify.Trusted)
	check(t, err)
	t.Cleanup(func() { check(t, g.Close()) })
	return g
}

// View is the newest view of a new index of the log.
func (l *Log) View(t testing.TB) *lineage.View {
	t.Helper()
	v, err := l.Graph(t).View(lineage.At{})
	check(t, err)
	return v
}
