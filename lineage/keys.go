package lineage

import (
	"encoding/binary"

	"github.com/retrace-ledger/retrace/schema"
)

// Keys of the index. Integers are big-endian, so that order of keys is order
// of entries.
//
//	!                        state: how far the log was followed
//	k KEY                    dense id of a resource
//	a ID ENTRY               what the entry adds to the description of a resource
//	n ID ENTRY               page: which entries from this one on made the resource, used it or are about it
//	r ID ENTRY SEQ           relation in which the resource is From
//	d ID ENTRY SEQ           relation in which the resource is To
//	t ID ENTRY SEQ           name that the entry points at the resource
//	s ENTRY                  step
//	x ENTRY                  what is known of the entry itself
//	y ENTRY TRUST            signers of the entry that verified once TRUST was recorded
//	q ENTRY                  the entry has signatures by keys not known to it
//	R RUN 0 ENTRY            run ID
//	N NAME 0 ENTRY SEQ       name
//	M ENTRY SEQ              name of a model version, in order of recording
//	U URI 0 ENTRY KEY 0      what the entry says is at a URI, where that changed
//	P TYPE 0 ENTRY           predicate type
//	T ENTRY                  trust
//	e ENTRY                  erasure
//	g ENTRY                  the entry has no body
//	w ENTRY                  retraction
const (
	tagState      = '!'
	tagKey        = 'k'
	tagMention    = 'a'
	tagPage       = 'n'
	tagUp         = 'r'
	tagDown       = 'd'
	tagPointer    = 't'
	tagStep       = 's'
	tagEntry      = 'x'
	tagVerified   = 'y'
	tagUnknown    = 'q'
	tagRun        = 'R'
	tagName       = 'N'
	tagModel      = 'M'
	tagURI        = 'U'
	tagType       = 'P'
	tagTrust      = 'T'
	tagErasure    = 'e'
	tagBodiless   = 'g'
	tagRetraction = 'w'
)

// key builds an index key from a tag and parts: integers as eight bytes,
// sequence numbers as four, and strings followed by a zero byte. A string that
// holds a zero byte itself gives keys that are longer than those of its part
// before the zero byte: readers compare lengths.
func key(tag byte, parts ...any) []byte {
	k := []byte{tag}
	for _, p := range parts {
		switch p := p.(type) {
		case nodeID:
			k = binary.BigEndian.AppendUint64(k, uint64(p))
		case int64:
			k = binary.BigEndian.AppendUint64(k, uint64(p))
		case int:
			k = binary.BigEndian.AppendUint32(k, uint32(p))
		case string:
			k = append(append(k, p...), 0)
		case schema.Key:
			k = append(append(k, p...), 0)
		}
	}
	return k
}

// nodeID is the dense id of a resource, given in order of first mention.
type nodeID uint64

// entryAt reads the entry index that stands at offset in a key.
func entryAt(k []byte, offset int) int64 {
	if len(k) < offset+8 {
		return -1
	}
	return int64(binary.BigEndian.Uint64(k[offset:]))
}

// afterID is where the entry stands in keys that begin with a tag and an id.
const afterID = 1 + 8
