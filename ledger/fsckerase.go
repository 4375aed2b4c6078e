package ledger

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
)

// erasures are the entries without a body that Fsck met, by index.
type erasures map[int64]*erasedEntry

// erasedEntry is an entry without a body.
type erasedEntry struct {
	commitment commitment
	stored     int64 // the entry that the store says erased it; 0 if it says none
	by         int64 // the entry that says so itself, as far as it was read; 0 if none
}

// noteErased takes note of a record without a body. Where the store does not
// say what erased it, the body is missing.
func (c *checker) noteErased(s engine.Snapshot, index int64, leaf commitment) error {
	by, err := erasedBy(s, index)
	c.erased[index] = &erasedEntry{commitment: leaf, stored: by}
	if err != nil {
		return c.findError(err)
	}
	return nil
}

// noteErasure holds an erasure that the observer signed to what it erased,
// which comes before it.
func (c *checker) noteErasure(e schema.Entry) error {
	p, ours, err := c.genesis.erasure(e.Envelope)
	if err != nil {
		return c.find(entryName(e.Index), "%v", err)
	}
	if !ours {
		return nil
	}
	target := c.erased[p.Index]
	switch {
	case target == nil:
		return c.find(entryName(e.Index), "it says that entry %d is erased, and that one has its body", p.Index)
	case target.by != 0:
		return c.find(entryName(e.Index), "it says that entry %d is erased, and so did entry %d", p.Index, target.by)
	}
	target.by = e.Index
	if err := checkErased(e.Envelope, target.commitment); err != nil {
		return c.find(entryName(e.Index), "it says that entry %d is erased: %v", p.Index, err)
	}
	return nil
}

// readErasures checks that each body that is missing was erased by an entry
// that says so, and that the store names that entry and no other.
func (c *checker) readErasures(s engine.Snapshot) error {
	for _, index := range slices.Sorted(maps.Keys(c.erased)) {
		e := c.erased[index]
		switch {
		case e.stored == 0:
			continue // reported where it was met
		case e.by == 0:
			if err := c.find(entryName(index), "its body is missing; the store says that entry %d erased it, and that one does not say so", e.stored); err != nil {
				return err
			}
		case e.by != e.stored:
			if err := c.find(entryName(index), "entry %d says that it erased it, and the store says that entry %d did", e.by, e.stored); err != nil {
				return err
			}
		}
	}
	for item, err := range s.Ascend([]byte(erasedPrefix), prefixEnd(erasedPrefix)) {
		if err != nil {
			return c.find("store", "keys under %q cannot be read: %v", erasedPrefix, err)
		}
		if err := c.checkErasedKey(item.Key()); err != nil {
			return err
		}
	}
	return nil
}

var errErasedKey = errors.New("not the key of an erased entry")

func erasedIndex(key []byte) (int64, error) {
	if len(key) != len(erasedPrefix)+8 {
		return 0, errErasedKey
	}
	return int64(binary.BigEndian.Uint64(key[len(erasedPrefix):])), nil
}

// checkErasedKey finds a key that calls an entry erased which has its body:
// were that body lost, nobody would notice.
func (c *checker) checkErasedKey(key []byte) error {
	index, err := erasedIndex(key)
	if err != nil {
		return c.find("store", "a key %q among those of erased entries", key)
	}
	if c.erased[index] == nil && index < c.tree.size() {
		return c.find(entryName(index), "the store calls it erased, and it has its body")
	}
	return nil
}
