package csi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// book is what the ledger says of snapshots, as far as it was read: which ones it
// asked for itself, and which ones something recorded needs.
type book struct {
	entries ingest.Entries
	next    int64 // the first entry that was not read
	chain   *verify.Chain

	owner  string                   // which ledger it is
	taken  map[string]schema.Taking // by UID: snapshots that it asked for
	names  map[string]bool          // of these, NAMESPACE/NAME
	needed map[string]bool          // locations that entries mention
	steps  map[string]bool          // run IDs of recorded steps
	odd    [][]byte                 // payloads whose facts cannot be read: they may mention anything
}

// follow reads what was recorded since.
func (b *book) follow(ctx context.Context) error {
	if b.entries == nil {
		return errors.New("the ledger is not at hand: snapshots are taken by `retrace serve` alone")
	}
	if b.taken == nil {
		b.taken, b.names, b.needed, b.steps = map[string]schema.Taking{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	}
	for e, err := range b.entries.Entries(ctx, b.next) {
		if err != nil {
			return fmt.Errorf("reading what is recorded of snapshots: %w", err)
		}
		if err := b.read(e); err != nil {
			return fmt.Errorf("reading entry %d: %w", e.Index, err)
		}
		b.next = e.Index + 1
	}
	if b.chain == nil {
		return errors.Join(ctx.Err(), errors.New("the ledger has no genesis"))
	}
	return ctx.Err()
}

func (b *book) read(e schema.Entry) error {
	if e.State != schema.Present {
		return nil
	}
	st, err := e.Envelope.Statement()
	if err != nil {
		b.notRead(e.Envelope.Payload)
		return nil
	}
	switch {
	case e.Index == 0:
		return b.genesis(e, st)
	case b.chain == nil:
		return errors.New("it comes before genesis")
	case verify.IsRotation(e.Envelope):
		chain, err := b.chain.Follow(e)
		if err == nil {
			b.chain = chain
		}
		return nil // one that does not follow counts for nothing
	}
	switch st.PredicateType {
	case schema.CommitV1, schema.PinsV1, schema.RefV1, schema.ImageV1, schema.TagV1, schema.SignatureV1, schema.CoverageV1, schema.TrustV1, schema.ConfigV1:
		return nil // they need no snapshot of a volume
	case schema.SnapshotV1:
		var p schema.Snapshot
		if schema.DecodePredicate(st, true, &p) == nil && p.Volume != nil {
			return nil // that it is there
		}
	case schema.TakingV1:
		return b.taking(e, st)
	case schema.ErasureV1: // what it erased may have needed them
		var p schema.Erasure
		if schema.DecodePredicate(st, true, &p) == nil {
			for _, k := range p.Resources {
				b.mention(strings.TrimPrefix(string(k), string(schema.URIKey(""))))
			}
		}
		return nil
	}
	f, err := st.Facts()
	if err != nil {
		b.notRead(e.Envelope.Payload)
		return nil
	}
	if f.Step != nil && f.Step.Run != "" {
		b.steps[f.Step.Run] = true
	}
	for _, r := range f.Resources {
		b.mention(strings.TrimPrefix(string(r.Key), string(schema.URIKey(""))))
		b.mention(r.URI) // a digest of it may be known, too
	}
	return nil
}

// mention notes the location of a snapshot of a volume, and nothing else.
func (b *book) mention(uri string) {
	if strings.HasPrefix(uri, Name+"://") || strings.HasPrefix(uri, "volumesnapshot://") {
		b.needed[uri] = true
	}
}

func (b *book) genesis(e schema.Entry, st schema.Statement) error {
	var g schema.Genesis
	if err := schema.DecodePredicate(st, true, &g); err != nil {
		return err
	}
	chain, err := verify.NewChain(g)
	if err != nil {
		return err
	}
	b.chain = chain
	sum := sha256.Sum256(e.Envelope.Raw)
	b.owner = hex.EncodeToString(sum[:8])
	return nil
}

// taking notes a snapshot that was asked for, if it is the ledger's own observer
// who says so: anybody else could have us delete what is not ours.
func (b *book) taking(e schema.Entry, st schema.Statement) error {
	var p schema.Taking
	if _, err := st.Facts(); err != nil || schema.DecodePredicate(st, true, &p) != nil || p.Action != schema.TakingTake || p.Owner != b.owner {
		return nil
	}
	if len(verify.Signers(e.Envelope, []schema.PublicKey{b.chain.ObserverAt(e.Index)})) == 0 {
		return nil
	}
	b.taken[p.UID], b.names[p.Name] = p, true
	return nil
}

// maxUnread is how many payloads are remembered whose facts cannot be read.
const maxUnread = 1024

// notRead remembers a payload that may mention a snapshot.
func (b *book) notRead(payload []byte) {
	if bytes.Contains(payload, []byte("csi:")) || bytes.Contains(payload, []byte("volumesnapshot:")) {
		b.odd = append(b.odd, payload)
	}
}

// needs says whether anything recorded needs the snapshot that is at a location,
// or under its object's name, and that was taken after a run; "" for none.
func (b *book) needs(uri, name, run string) bool {
	if b.needed[uri] || b.needed[name] || b.steps[run] || len(b.odd) > maxUnread {
		return true
	}
	for _, payload := range b.odd {
		if bytes.Contains(payload, []byte(uri)) || bytes.Contains(payload, []byte(name)) {
			return true
		}
	}
	return false
}
