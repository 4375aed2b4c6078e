package ledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/retrace-ledger/retrace/ledger/engine"
)

// seen is a set of identities that may take one for a member that is none,
// about once in a thousand times, and never the other way round. It has all
// that were recorded since the ledger was opened, so that what a caller did
// not find in the store need not be looked for again by the committer; and
// once it is whole, all that the ledger holds, so that the caller need not look
// for what is new. Looking for a key that is not there is the dearest part of
// an append otherwise.
//
// The committer adds to it, one goroutine fills it up, and callers read it.
// It takes two bytes for each entry.
type seen struct {
	layers atomic.Pointer[[]*layer] // the newest last; it alone is added to
	whole  atomic.Bool
	added  int // since the ledger was opened
	room   int // in the newest layer
}

const (
	firstLayer = 1 << 16 // identities
	seenEnough = 1 << 12 // entries
)

// worthFilling reports whether so much was added that the index of duplicates
// of a ledger of the given size is worth reading: a key read in order costs a
// tenth of one looked for. A command that appends a few never reads it.
func (s *seen) worthFilling(size int64) bool {
	return s.added >= seenEnough && int64(s.added) >= size/16
}

// has reports whether id may be in the set.
func (s *seen) has(id *identity) bool {
	layers := s.layers.Load()
	if layers == nil {
		return false
	}
	for _, l := range *layers {
		if l.has(id) {
			return true
		}
	}
	return false
}

// mayHold reports whether the store may hold any of ids.
func (s *seen) mayHold(ids []identity) bool {
	if !s.whole.Load() {
		return true
	}
	for i := range ids {
		if s.has(&ids[i]) {
			return true
		}
	}
	return false
}

// add is for the committer only.
func (s *seen) add(id *identity) {
	if s.room == 0 {
		s.room = max(firstLayer, s.added)
		s.push(newLayer(s.room))
	}
	s.room--
	s.added++
	layers := *s.layers.Load()
	layers[len(layers)-1].add(id)
}

// push makes l the newest layer.
func (s *seen) push(l *layer) { s.change(func(all []*layer) []*layer { return append(all, l) }) }

// complete adds l, which has what was recorded before the ledger was opened.
func (s *seen) complete(l *layer) {
	s.change(func(all []*layer) []*layer { return append([]*layer{l}, all...) })
	s.whole.Store(true)
}

func (s *seen) change(by func([]*layer) []*layer) {
	for {
		before := s.layers.Load()
		var all []*layer
		if before != nil {
			all = slices.Clone(*before)
		}
		all = by(all)
		if s.layers.CompareAndSwap(before, &all) {
			return
		}
	}
}

// layer is a Bloom filter in blocks of one cache line each, with one bit of
// each word for an identity. Identities are keyed hashes, so their bytes do
// for the hash functions.
type layer struct {
	blocks [][8]atomic.Uint64
}

// newLayer returns an empty layer with room for n identities, 32 a block. More
// fit and make it less sharp.
func newLayer(n int) *layer { return &layer{make([][8]atomic.Uint64, n/32+1)} }

func (l *layer) block(id *identity) (words *[8]atomic.Uint64, places uint64) {
	n, _ := bits.Mul64(binary.LittleEndian.Uint64(id[:8]), uint64(len(l.blocks)))
	return &l.blocks[n], binary.LittleEndian.Uint64(id[8:16])
}

func (l *layer) add(id *identity) {
	words, places := l.block(id)
	for i := range words {
		words[i].Or(1 << (places & 63))
		places >>= 6
	}
}

func (l *layer) has(id *identity) bool {
	words, places := l.block(id)
	for i := range words {
		if words[i].Load()&(1<<(places&63)) == 0 {
			return false
		}
		places >>= 6
	}
	return true
}

// fillSeen reads the index of duplicates once and makes seen whole. Where that
// fails seen stays as it is, and whoever needs what cannot be read is told.
func (l *Ledger) fillSeen(ctx context.Context) {
	old := newLayer(int(l.Size()))
	err := l.reading(ctx, func(s engine.Snapshot) error {
		for item, err := range s.Ascend([]byte(dedupPrefix), prefixEnd(dedupPrefix)) {
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			var id identity
			if n := copy(id[:], item.Key()[len(dedupPrefix):]); n != len(id) {
				return fmt.Errorf("%d bytes are no identity", n)
			}
			old.add(&id)
		}
		return nil
	})
	if err == nil {
		l.committer.seen.complete(old)
	}
}
