package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/retrace-ledger/retrace/schema"
)

// Bounds of one segment. A larger one would make reading one entry cost more;
// a single entry may exceed maxSegmentBytes.
const (
	maxSegmentEntries = 256
	maxSegmentBytes   = 512 << 10
)

// recordOverhead is what a segment adds to an encoded body: commitment(32) ‖
// uint32 length.
const recordOverhead = sha256.Size + 4

// A segment is the stored form of consecutive entries:
//
//	( commitment(32) ‖ uint32 length ‖ encoded body )…
//
// Length 0 stands for an erased body, whose commitment stays; it is damage
// unless the store says which entry erased it. withheldLength stands for a body
// that whoever keeps this copy was not given.
type segment []byte

// withheldLength is the length of a body that is not there and was not erased.
const withheldLength = 1<<32 - 1

// record is one entry of a segment. It aliases the segment.
type record struct {
	commitment commitment
	body       []byte // empty if erased or withheld
	withheld   bool
}

// add appends the entry whose encoded body is salt ‖ header ‖ envelope, the
// header with its length before it, and returns its commitment.
func (s segment) add(salt, header, envelope []byte) (segment, commitment) {
	at := len(s)
	s = append(s, make([]byte, sha256.Size)...)
	s = binary.BigEndian.AppendUint32(s, uint32(len(salt)+len(header)+len(envelope)))
	s = append(s, salt...)
	s = append(s, header...)
	s = append(s, envelope...)
	c := schema.Commitment(s[at+recordOverhead:])
	copy(s[at:], c[:])
	return s, c
}

// put appends r as it is.
func (s segment) put(r record) segment {
	n := uint32(len(r.body))
	if r.withheld {
		n = withheldLength
	}
	s = append(s, r.commitment[:]...)
	s = binary.BigEndian.AppendUint32(s, n)
	return append(s, r.body...)
}

// records yields the records of s in order, and ends with an error if s is not
// a whole number of them. It does not check bodies against commitments.
func (s segment) records() iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		for rest := s; len(rest) > 0; {
			if len(rest) < recordOverhead {
				yield(record{}, fmt.Errorf("%d stray bytes at the end", len(rest)))
				return
			}
			n := binary.BigEndian.Uint32(rest[sha256.Size:])
			withheld := n == withheldLength
			if withheld {
				n = 0
			}
			if int64(n) > int64(len(rest)-recordOverhead) {
				yield(record{}, fmt.Errorf("a body of %d bytes where %d are left", n, len(rest)-recordOverhead))
				return
			}
			end := recordOverhead + int(n)
			r := record{commitment: [sha256.Size]byte(rest), body: rest[recordOverhead:end:end], withheld: withheld}
			if !yield(r, nil) {
				return
			}
			rest = rest[end:]
		}
	}
}
