package schema

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Limits of what one append takes (DESIGN 12.8). All are in bytes or counts
// and are named in the error when exceeded.
const (
	MaxEnvelope       = 4 << 20 // bytes of one envelope as received
	MaxSubjects       = 16384   // subjects of one statement
	MaxBatchEnvelopes = 4096    // envelopes of one batch
	MaxBatchBytes     = 8 << 20 // bytes of all envelopes of one batch
	MaxHeader         = 4 << 10 // bytes of one header
	SaltSize          = 32      // bytes
)

// leafPrefix separates leaf commitments from everything else that is hashed
// with SHA-256.
const leafPrefix = "retrace leaf v1\n"

// Header is what the ledger itself says about an entry. It decides who reads
// the entry and what an answer says, so it is under the tree with the
// envelope.
type Header struct {
	// RecordedAt is the committer's clock in UTC, to the microsecond. It never
	// decreases from one entry to the next.
	RecordedAt time.Time `json:"recordedAt"`
	// Namespace decides who may read the entry and within which bounds
	// duplicates are judged.
	Namespace string `json:"namespace"`
	// Source names what the entry was read from, such as a source's URL, "run"
	// or "record".
	Source string `json:"source,omitempty"`
	// Submitter is who handed the entry in: a key ID or an identity.
	Submitter string `json:"submitter,omitempty"`
}

// Body is what one leaf commits to. Bodies stay behind access control; the
// commitment alone is public.
type Body struct {
	Salt     [SaltSize]byte
	Header   Header
	Envelope []byte // as received, byte for byte
}

// encode returns the header as canonical JSON, times in UTC.
func (h Header) encode() ([]byte, error) {
	h.RecordedAt = h.RecordedAt.UTC()
	if !h.RecordedAt.Equal(h.RecordedAt.Truncate(time.Microsecond)) {
		return nil, fieldErrorf("recordedAt", "%s is finer than a microsecond", h.RecordedAt.Format(time.RFC3339Nano))
	}
	raw, err := Canonical(h)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxHeader {
		return nil, fieldErrorf("", "is %d bytes; the limit is %d", len(raw), MaxHeader)
	}
	return raw, nil
}

// Encode returns salt ‖ uint32 big-endian length ‖ header ‖ envelope, where the
// header is canonical JSON. It is how a body is stored, served and bundled.
func (b *Body) Encode() ([]byte, error) {
	header, err := b.Header.encode()
	if err != nil {
		return nil, under("header", err)
	}
	out := make([]byte, 0, SaltSize+4+len(header)+len(b.Envelope))
	out = append(out, b.Salt[:]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(header)))
	out = append(out, header...)
	return append(out, b.Envelope...), nil
}

// ParseBody is the inverse of Encode. It refuses anything that Encode would
// not have written, so that a body has one encoding. The envelope aliases raw.
func ParseBody(raw []byte) (Body, error) {
	var b Body
	if len(raw) < SaltSize+4 {
		return b, fieldErrorf("body", "is %d bytes, too short for salt and header", len(raw))
	}
	copy(b.Salt[:], raw)
	n := binary.BigEndian.Uint32(raw[SaltSize:])
	rest := raw[SaltSize+4:]
	if n > MaxHeader || int(n) > len(rest) {
		return b, fieldErrorf("body", "header length %d exceeds the %d bytes present (limit %d)", n, len(rest), MaxHeader)
	}
	header := rest[:n]
	if err := decodeStrict(header, &b.Header); err != nil {
		return b, under("header", err)
	}
	again, err := b.Header.encode()
	if err != nil {
		return b, under("header", err)
	}
	if !bytes.Equal(again, header) {
		return b, fieldErrorf("header", "is not canonical JSON (RFC 8785) with times in UTC")
	}
	b.Envelope = rest[n:]
	return b, nil
}

// Commitment is the leaf data of an encoded body:
// SHA-256("retrace leaf v1\n" ‖ salt ‖ uint32 length ‖ header ‖ envelope).
// The Merkle leaf hash over it is SHA-256(0x00 ‖ commitment), RFC 6962
// section 2.1.
func Commitment(encodedBody []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(leafPrefix))
	h.Write(encodedBody)
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return sum
}

// State says whether the body of an entry can be read.
type State string

// The states of an entry's body.
const (
	Present  State = "PRESENT"  // the body is here
	Erased   State = "ERASED"   // removed for good; an erasure entry says why
	Withheld State = "WITHHELD" // exists, but not for this reader or not in this bundle
)

// Entry is one entry of the ledger as it is read: its place, its commitment
// and, unless erased or withheld, its body.
type Entry struct {
	Index      int64
	Commitment [sha256.Size]byte
	State      State
	Header     Header   // zero unless Present
	Envelope   Envelope // zero unless Present
	Body       []byte   // encoded, as hashed; nil unless Present
}

// ParseEntry decodes an encoded body at index into an entry. It does not check
// the body against the tree; whoever read it does.
func ParseEntry(index int64, raw []byte) (Entry, error) {
	e := Entry{Index: index, Commitment: Commitment(raw), State: Present, Body: raw}
	b, err := ParseBody(raw)
	if err != nil {
		return e, fmt.Errorf("entry %d: %w", index, err)
	}
	e.Header = b.Header
	if e.Envelope, err = ParseEnvelope(b.Envelope); err != nil {
		return e, fmt.Errorf("entry %d: envelope: %w", index, err)
	}
	return e, nil
}

// ErrUnsupported marks a well-formed document of a kind that retrace does not
// take, as opposed to a malformed one.
var ErrUnsupported = errors.New("not supported")
