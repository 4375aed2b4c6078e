package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Proof says that a leaf is at Index of the tree that Checkpoint signs. Its
// text is C2SP tlog-proof.
type Proof struct {
	Index      int64
	Hashes     []tlog.Hash // from the leaf to the root
	Checkpoint []byte      // signed note
}

// proofHeader is the first line of the text (C2SP tlog-proof).
const proofHeader = "c2sp.org/tlog-proof@v1"

// Marshal returns p as C2SP tlog-proof text.
func (p Proof) Marshal() []byte {
	return torchwood.FormatProof(p.Index, p.Hashes, p.Checkpoint)
}

// ParseProof reads C2SP tlog-proof text. It takes only what Marshal writes, so
// that a proof has one encoding: no loose base64, and no extra line, which
// nothing would authenticate. It does not look into the checkpoint. The error
// is a *MalformedError.
func ParseProof(text []byte) (Proof, error) {
	if len(text) > MaxCheckpoint {
		return Proof{}, malformed("proof", "%d bytes; the limit is %d", len(text), MaxCheckpoint)
	}
	head, checkpoint, ok := bytes.Cut(text, []byte("\n\n"))
	if !ok {
		return Proof{}, malformed("proof", "no blank line before the checkpoint")
	}
	lines := bytes.Split(head, []byte("\n"))
	if string(lines[0]) != proofHeader {
		return Proof{}, malformed("proof", "the first line is not %s", proofHeader)
	}
	if len(lines) < 2 {
		return Proof{}, malformed("proof", "no index line")
	}
	index, ok := bytes.CutPrefix(lines[1], []byte("index "))
	if !ok {
		return Proof{}, malformed("proof", "the second line does not begin with %q", "index ")
	}
	p := Proof{Checkpoint: bytes.Clone(checkpoint)}
	var err error
	if p.Index, err = strconv.ParseInt(string(index), 10, 64); err != nil || p.Index < 0 {
		return Proof{}, malformed("proof", "the index is not a number that counts entries")
	}
	for i, line := range lines[2:] {
		h, err := base64.StdEncoding.Strict().DecodeString(string(line))
		if err != nil || len(h) != tlog.HashSize {
			return Proof{}, malformed("proof", "line %d is not a hash", i+3)
		}
		p.Hashes = append(p.Hashes, tlog.Hash(h))
	}
	if !bytes.Equal(p.Marshal(), text) {
		return Proof{}, malformed("proof", "it is not in the one encoding that is taken")
	}
	return p, nil
}

// Verify verifies that v's key signed p's checkpoint and that the leaf with
// the given commitment is at p's index in its tree. The error is a
// *MalformedError if the checkpoint cannot be read and a *FalseError if
// something does not hold.
func (p Proof) Verify(commitment [sha256.Size]byte, v note.Verifier) (Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, v)
	if err != nil {
		return Checkpoint{}, err
	}
	claim := fmt.Sprintf("that the entry is number %d of %d", p.Index, c.Size)
	if p.Index < 0 || p.Index >= c.Size {
		return Checkpoint{}, &FalseError{claim, fmt.Errorf("there is no entry %d in a tree of %d", p.Index, c.Size)}
	}
	// The leaf hash is SHA-256(0x00 ‖ commitment), RFC 6962 section 2.1.
	if err := tlog.CheckRecord(p.Hashes, c.Size, c.Root, p.Index, tlog.RecordHash(commitment[:])); err != nil {
		return Checkpoint{}, &FalseError{claim, err}
	}
	return c, nil
}
