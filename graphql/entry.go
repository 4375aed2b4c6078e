package graphql

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"filippo.io/torchwood"
	"github.com/graph-gophers/graphql-go"

	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// entry resolves Entry.
type entry struct {
	in   *answer
	info lineage.EntryInfo
	body func() (schema.Entry, error) // read from the log once
}

// entry returns the entry at index.
func (a *answer) entry(ctx context.Context, index int64) (*entry, error) {
	info, err := a.View.Entry(index)
	if err != nil {
		return nil, err
	}
	return a.entryOf(ctx, info), nil
}

func (a *answer) entryOf(ctx context.Context, info lineage.EntryInfo) *entry {
	return &entry{a, info, sync.OnceValues(func() (schema.Entry, error) { return a.log.Entry(ctx, info.Index) })}
}

func (e *entry) ID() ID                 { return opaque("entry", strconv.FormatInt(e.info.Index, 10)) }
func (e *entry) Index() Long            { return Long(e.info.Index) }
func (e *entry) PredicateType() *string { return text(e.info.PredicateType) }
func (e *entry) State() string          { return string(e.info.State) }
func (e *entry) At() *graphql.Time      { return instant(e.info.At) }
func (e *entry) Namespace() *string     { return text(e.info.Namespace) }
func (e *entry) Source() *string        { return text(e.info.Source) }
func (e *entry) Submitter() *string     { return text(e.info.Submitter) }
func (e *entry) Summary() *string       { return text(e.info.Summary) }
func (e *entry) Unreadable() *string    { return text(e.info.Unreadable) }

func (e *entry) RecordedAt() *graphql.Time { return instant(e.info.RecordedAt) }

func (e *entry) Evidence() *string {
	if e.info.State != schema.Present {
		return nil
	}
	return text(string(e.info.Evidence))
}

func (e *entry) Statement() (*JSON, error) {
	b, err := e.body()
	if err != nil || b.State != schema.Present {
		return nil, err
	}
	if _, err := b.Envelope.Statement(); err != nil {
		return nil, nil // Unreadable says why
	}
	return &JSON{Text: b.Envelope.Payload}, nil
}

type signer struct {
	Keyid             string
	Verified, Trusted bool
}

// Signers are the keys and identities whose signatures verified, then the names
// of those that could not be checked.
func (e *entry) Signers() (*[]signer, error) {
	b, err := e.body()
	if err != nil || b.State != schema.Present {
		return nil, err
	}
	out := []signer{}
	for _, id := range e.info.Signers {
		out = append(out, signer{id, true, e.in.Trusts(e.info, id)})
	}
	if len(out) < len(b.Envelope.Signatures) {
		for _, s := range b.Envelope.Signatures {
			name := s.KeyID
			if subject, issuer := verify.Certified(b.Envelope); subject != "" {
				name = subject + " by " + issuer
			}
			if !slices.Contains(e.info.Signers, name) {
				out = append(out, signer{Keyid: name})
			}
		}
	}
	return &out, nil
}

func (e *entry) Inclusion(ctx context.Context) (*string, error) {
	p, err := e.in.log.Proof(ctx, e.info.Index)
	if err != nil {
		return nil, err
	}
	return text(string(p.Marshal())), nil
}

func (e *entry) Proof(ctx context.Context) (*string, error) {
	trust, err := e.in.TrustFor(e.info.Index)
	if err != nil {
		return nil, err
	}
	claim := verify.Claim{Ref: "entry:" + strconv.FormatInt(e.info.Index, 10), Entry: e.info.Index, Size: e.in.View.Size()}
	return e.in.bundle(ctx, claim, trust...)
}

// bundle is the text of the bundle that proves claim.
func (a *answer) bundle(ctx context.Context, claim verify.Claim, entries ...int64) (*string, error) {
	if err := a.spend(ctx, len(entries)); err != nil {
		return nil, err
	}
	b, err := verify.Build(ctx, a.log, claim, entries...)
	if err != nil {
		return nil, err
	}
	raw, err := b.Marshal()
	return text(string(raw)), err
}

// checkpoint resolves Checkpoint.
type checkpoint struct {
	Origin string
	Size   Long
	Root   string
	Note   string
	// Cosigned is the newest one that witnesses cosigned; nil if there is none.
	Cosigned *checkpoint
}

// parseCheckpoint reads a checkpoint of our own log, whose signature needs no
// check.
func parseCheckpoint(note []byte) (*checkpoint, error) {
	signed, _, _ := strings.Cut(string(note), "\n\n") // C2SP signed-note: the text ends at the first empty line
	c, err := torchwood.ParseCheckpoint(signed + "\n")
	if err != nil {
		return nil, fmt.Errorf("reading the newest checkpoint: %w", err)
	}
	return &checkpoint{Origin: c.Origin, Size: Long(c.N), Root: base64.StdEncoding.EncodeToString(c.Hash[:]), Note: string(note)}, nil
}

// RetractedBy is null where nobody withdrew the entry who may.
func (e *entry) RetractedBy(ctx context.Context) (*entry, error) {
	r, gone, err := e.in.Retraction(e.info.Index)
	if err != nil || !gone {
		return nil, err
	}
	return e.in.entry(ctx, r.By)
}
