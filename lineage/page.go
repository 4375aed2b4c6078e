package lineage

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/retrace-ledger/retrace/schema"
)

// What an entry says of a resource, in a page.
const (
	saysAbout byte = 1 << iota // its statement is about the resource
	saysMade                   // its step made it
	saysUsed                   // its step used it
)

// pageItems is how many entries a page lists.
const pageItems = 256

// A page lists entries that say something of one resource, ascending. It
// stands under the first of them as
//
//	( entry, less the one before, as a uvarint ‖ what it says, one byte )…
//
// A full page never changes again. Where one ends depends on the entries alone,
// and not on how they were followed.
type page struct {
	first int64 // entry
	last  int64 // entry
	items int
	raw   []byte
	dirty bool // has what the store was not given yet
}

// add lists entry, which is none before the last one. A full page makes room
// for the next: the caller has put it in the store.
func (p *page) add(entry int64, what byte) {
	if p.holds(entry) {
		p.raw[len(p.raw)-1] |= what
		return
	}
	if p.items == 0 || p.items == pageItems {
		*p = page{first: entry, last: entry, dirty: p.dirty}
	}
	p.raw = append(binary.AppendUvarint(p.raw, uint64(entry-p.last)), what)
	p.last = entry
	p.items++
}

// holds says whether entry is the last that p lists.
func (p *page) holds(entry int64) bool { return p.items > 0 && p.last == entry }

// readPage calls fn with what the page under k lists.
func readPage(k, raw []byte, fn func(entry int64, what byte)) error {
	entry := entryAt(k, afterID)
	for rest := raw; len(rest) > 0; {
		delta, n := binary.Uvarint(rest)
		if n <= 0 || n == len(rest) || entry < 0 {
			return fmt.Errorf("the lineage index holds a page %x that cannot be read", k)
		}
		entry += int64(delta)
		fn(entry, rest[n])
		rest = rest[n+1:]
	}
	return nil
}

// scanPages calls fn with every entry that says something of the resource id,
// ascending, and with what it says.
func scanPages(txn *badger.Txn, id nodeID, fn func(entry int64, what byte)) error {
	return scan(txn, key(tagPage, id), func(k, raw []byte) error { return readPage(k, raw, fn) })
}

// lastPage is the last page of id with entries below size. Others were left by
// an interrupted Follow.
func lastPage(txn *badger.Txn, id nodeID, size int64) (*page, error) {
	p := new(page)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: key(tagPage, id), Reverse: true})
	defer it.Close()
	it.Seek(key(tagPage, id, size-1))
	if !it.Valid() {
		return p, nil
	}
	return p, it.Item().Value(func(raw []byte) error {
		return readPage(it.Item().Key(), raw, func(entry int64, what byte) {
			if entry < size {
				p.add(entry, what)
			}
		})
	})
}

// says notes what the entry at index says of k. The page is put in the store
// when it is full and when the transaction ends.
func (w *indexer) says(k schema.Key, index int64, what byte) error {
	n, err := w.node(k)
	if err != nil {
		return err
	}
	if n.page == nil {
		if n.page, err = lastPage(w.before, n.id, index); err != nil {
			return fmt.Errorf("reading what is said of %s in the lineage index: %w", k, err)
		}
	}
	p := n.page
	if p.dirty && p.items == pageItems && !p.holds(index) {
		if err := w.put(key(tagPage, n.id, p.first), p.raw); err != nil {
			return err
		}
	}
	p.add(index, what)
	if !p.dirty {
		p.dirty = true
		w.paged = append(w.paged, n)
	}
	return nil
}

// putPages puts the pages that were added to in the store.
func (w *indexer) putPages() error {
	for _, n := range w.paged {
		if err := w.put(key(tagPage, n.id, n.page.first), n.page.raw); err != nil {
			return err
		}
		n.page.dirty = false
	}
	w.paged = nil
	return nil
}
