package verify

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/schema"
)

// bundleFormat is the first thing that a bundle says.
const bundleFormat = "retrace bundle v1"

// MaxBundle is the size in bytes above which a bundle is refused unread.
const MaxBundle = 256 << 20

// Bundle proves one answer: the entries it rests on, each with its place in
// the tree, the checkpoint they are under, and the answer itself. Its one
// encoding is canonical JSON (RFC 8785).
type Bundle struct {
	Format     string        `json:"format"`
	Checkpoint string        `json:"checkpoint"` // signed note
	Entries    []BundleEntry `json:"entries"`    // ascending; the first is genesis
	Claim      Claim         `json:"claim"`
}

// BundleEntry is one entry with its inclusion proof.
type BundleEntry struct {
	Index int64 `json:"index"`
	// Body is the encoded body in base64. An entry whose body was erased or is
	// withheld has its commitment instead.
	Body       string   `json:"body,omitempty"`
	Commitment string   `json:"commitment,omitempty"`
	Proof      []string `json:"proof"` // hashes in base64, from leaf to root
}

// Claim is what the bundle proves: that the walk from a resource over the
// bundle's entries gives these edges. A claim without a root is about the
// entry Entry alone.
type Claim struct {
	Ref       string           `json:"ref"`            // as it was asked for
	Name      string           `json:"name,omitempty"` // full name by which Ref was found; an entry in the bundle says it points at Root
	Entry     int64            `json:"entry"`          // that states Name, or that the claim is about; -1 if neither
	Root      schema.Key       `json:"root,omitempty"`
	Run       string           `json:"run,omitempty"`
	Direction schema.Direction `json:"direction,omitempty"`
	Depth     int              `json:"depth,omitempty"`
	Size      int64            `json:"size"` // entries that the answer speaks for
	Truncated bool             `json:"truncated,omitempty"`
	Edges     []schema.Edge    `json:"edges,omitempty"`
}

// A ProofLog is where a bundle is built from. *ledger.Ledger is one.
type ProofLog interface {
	Checkpoint() []byte
	Entry(ctx context.Context, index int64) (schema.Entry, error)
	ProveInclusion(ctx context.Context, index, size int64) ([]tlog.Hash, error)
}

// A CosignedLog also has a checkpoint that witnesses cosigned.
type CosignedLog interface {
	// Cosigned is the newest checkpoint that the quorum cosigned; nil if none.
	Cosigned() []byte
}

// Build collects what proves claim from the log: genesis, the entries named,
// and the entry that the claim itself names. The trust entries that the
// grades rest on are the caller's to name. The checkpoint is the newest one,
// or that which witnesses cosigned if the log has one that covers the claim.
func Build(ctx context.Context, log ProofLog, claim Claim, entries ...int64) (*Bundle, error) {
	checkpoint := log.Checkpoint()
	size, err := sizeOf(checkpoint)
	if err != nil {
		return nil, err
	}
	if witnessed, ok := log.(CosignedLog); ok {
		if note := witnessed.Cosigned(); note != nil {
			covers, err := sizeOf(note)
			if err != nil {
				return nil, err
			}
			if covers >= claim.Size {
				checkpoint, size = note, covers
			}
		}
	}
	if claim.Size > size {
		return nil, fmt.Errorf("the answer speaks for %d entries, the newest checkpoint covers %d", claim.Size, size)
	}
	b := &Bundle{Format: bundleFormat, Checkpoint: string(checkpoint), Claim: claim}
	all := append([]int64{0}, entries...)
	if claim.Entry >= 0 {
		all = append(all, claim.Entry)
	}
	for _, e := range claim.Edges {
		all = append(all, e.Entry)
	}
	slices.Sort(all)
	for _, index := range slices.Compact(all) {
		e, err := log.Entry(ctx, index)
		if err != nil {
			return nil, err
		}
		hashes, err := log.ProveInclusion(ctx, index, size)
		if err != nil {
			return nil, err
		}
		be := BundleEntry{Index: index, Proof: []string{}}
		if e.State == schema.Present {
			be.Body = base64.StdEncoding.EncodeToString(e.Body)
		} else {
			be.Commitment = base64.StdEncoding.EncodeToString(e.Commitment[:])
		}
		for _, h := range hashes {
			be.Proof = append(be.Proof, base64.StdEncoding.EncodeToString(h[:]))
		}
		b.Entries = append(b.Entries, be)
	}
	return b, nil
}

// Withhold takes the body of an entry out of the bundle. Its leaf stays, and is
// still proved to be in the log. The claim must not rest on what it states. What
// decides whose word counts cannot be withheld.
func (b *Bundle) Withhold(index int64) error {
	i := slices.IndexFunc(b.Entries, func(e BundleEntry) bool { return e.Index == index })
	if i < 0 {
		return fmt.Errorf("entry %d is not in the bundle: the answer does not rest on it", index)
	}
	e := &b.Entries[i]
	if e.Body == "" {
		return nil
	}
	body, err := decode64(e.Body)
	if err != nil {
		return malformed("bundle", "body of entry %d: %v", index, err)
	}
	entry, err := schema.ParseEntry(index, body)
	if err != nil {
		return err
	}
	s, err := entry.Envelope.Statement()
	switch {
	case index == 0 || err == nil && s.PredicateType == schema.TrustV1:
		return fmt.Errorf("entry %d cannot be withheld: it decides whose word counts", index)
	case index == b.Claim.Entry:
		return fmt.Errorf("entry %d cannot be withheld: it is what the answer is about", index)
	}
	leaf := schema.Commitment(body)
	e.Body, e.Commitment = "", base64.StdEncoding.EncodeToString(leaf[:])
	return nil
}

// sizeOf reads the tree size of a checkpoint of one's own, whose signature
// needs no check.
func sizeOf(checkpoint []byte) (int64, error) {
	_, rest, _ := bytes.Cut(checkpoint, []byte("\n"))
	line, _, ok := bytes.Cut(rest, []byte("\n"))
	var size int64
	if _, err := fmt.Sscanf(string(line), "%d", &size); err != nil || !ok {
		return 0, malformed("checkpoint", "the second line is not a size")
	}
	return size, nil
}

// Origin is the first line of the bundle's checkpoint, which nobody vouches
// for until the signature was checked: it names the log whose key to use.
func (b *Bundle) Origin() string {
	line, _, _ := bytes.Cut([]byte(b.Checkpoint), []byte("\n"))
	return string(line)
}

// Marshal returns the one encoding of b.
func (b *Bundle) Marshal() ([]byte, error) {
	raw, err := schema.Canonical(b)
	if err != nil {
		return nil, err
	}
	return append(raw, '\n'), nil
}

// ParseBundle reads what Marshal wrote and nothing else: unknown fields, loose
// base64 and other orders of fields are refused. The error is a
// *MalformedError.
func ParseBundle(raw []byte) (*Bundle, error) {
	if len(raw) > MaxBundle {
		return nil, malformed("bundle", "%d bytes; the limit is %d", len(raw), MaxBundle)
	}
	b := new(Bundle)
	if err := json.Unmarshal(raw, b, json.RejectUnknownMembers(true)); err != nil {
		return nil, malformed("bundle", "%v", err)
	}
	if b.Format != bundleFormat {
		return nil, malformed("bundle", "format is %q; this program reads %q", b.Format, bundleFormat)
	}
	again, err := b.Marshal()
	if err != nil {
		return nil, &MalformedError{What: "bundle", Err: err}
	}
	if !bytes.Equal(again, raw) {
		return nil, malformed("bundle", "it is not in its one encoding (canonical JSON and a newline)")
	}
	for i, e := range b.Entries {
		if i > 0 && e.Index <= b.Entries[i-1].Index {
			return nil, malformed("bundle", "entries are not in ascending order at entry %d", e.Index)
		}
		if (e.Body == "") == (e.Commitment == "") {
			return nil, malformed("bundle", "entry %d must have either a body or a commitment", e.Index)
		}
	}
	if d := b.Claim.Direction; d != "" && d != schema.Upstream && d != schema.Downstream {
		return nil, malformed("bundle", "direction %q is neither %s nor %s", d, schema.Upstream, schema.Downstream)
	}
	if b.Claim.Depth < 0 {
		return nil, malformed("bundle", "depth %d is negative", b.Claim.Depth)
	}
	if len(b.Entries) == 0 || b.Entries[0].Index != 0 {
		return nil, malformed("bundle", "genesis, entry 0, is missing: without it nothing says whose ledger this is")
	}
	return b, nil
}

// decode64 takes base64 in its one form. The strict decoder of the standard
// library still skips line breaks.
func decode64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("base64 with line breaks")
	}
	return base64.StdEncoding.Strict().DecodeString(s)
}

// open decodes an entry of the bundle and checks its place in the tree.
func (e BundleEntry) open(b *Bundle, v note.Verifier) (schema.Entry, error) {
	out := schema.Entry{Index: e.Index, State: schema.Withheld}
	what := fmt.Sprintf("entry %d of the bundle", e.Index)
	if e.Body != "" {
		raw, err := decode64(e.Body)
		if err != nil {
			return out, malformed(what, "body: %v", err)
		}
		if out, err = schema.ParseEntry(e.Index, raw); err != nil {
			return out, &MalformedError{What: what, Err: err}
		}
	} else {
		raw, err := decode64(e.Commitment)
		if err != nil || len(raw) != len(out.Commitment) {
			return out, malformed(what, "commitment is not 32 bytes of base64")
		}
		copy(out.Commitment[:], raw)
	}
	p := Proof{Index: e.Index, Checkpoint: []byte(b.Checkpoint)}
	for _, s := range e.Proof {
		h, err := decode64(s)
		if err != nil || len(h) != tlog.HashSize {
			return out, malformed(what, "proof is not a list of hashes")
		}
		p.Hashes = append(p.Hashes, tlog.Hash(h))
	}
	_, err := p.Verify(out.Commitment, v)
	return out, err
}
