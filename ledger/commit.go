package ledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// committer is what only the one committing goroutine touches.
type committer struct {
	key    note.Signer
	now    func() time.Time
	secret []byte // of the identities; callers read it too
	tree   *tree
	last   time.Time // recordedAt of the newest entry
	file   checkpointWriter
	step   func(string) error
	free   func(dir string) (uint64, error)
	seen   seen
	arena  []byte     // that segments are made in, again and again
	small  segmentRun // at the end of the store
}

// checkpointWriter makes a signed note durable outside the store.
type checkpointWriter interface {
	write(signed []byte) error
	Close() error
}

// run commits until the queue is closed and empty, or a commit fails. After
// that nothing is committed and everything that waits is refused.
func (l *Ledger) run() {
	defer close(l.done)
	ctx, cancel := context.WithCancel(context.Background())
	var filling sync.WaitGroup
	defer filling.Wait()
	defer cancel()
	for full := false; ; {
		group := l.queue.take()
		if len(group) == 0 {
			return
		}
		if err := l.commit(group); err != nil {
			l.stop(fmt.Errorf("%s: %w: %w", l.dir, ErrStopped, err), group)
			return
		}
		if !full && l.committer.seen.worthFilling(l.Size()) {
			full = true
			filling.Go(func() { l.fillSeen(ctx) })
		}
	}
}

// stop refuses group and whatever waits. What of a failed commit is durable is
// not known; nobody was told that any of it is.
func (l *Ledger) stop(err error, group []*pending) {
	l.queue.close(err)
	for {
		for _, p := range group {
			p.reply(schema.Receipt{}, err)
		}
		if group = l.queue.take(); len(group) == 0 {
			return
		}
	}
}

// commit takes the requests of group into one transaction and answers them. A
// request that cannot be taken is refused alone. An error means that the
// commit failed part-way; the requests in it have no answer then.
func (l *Ledger) commit(group []*pending) error {
	if i := slices.IndexFunc(group, isRotation); i >= 0 {
		return l.commitRotation(group, i)
	}
	if err := l.room(group); err != nil {
		for _, p := range group {
			p.reply(schema.Receipt{}, err)
		}
		return nil
	}
	c := l.newCommit(group)
	err := l.engine.View(func(s engine.Snapshot) error {
		for _, p := range group {
			if err := c.admit(s, p); err != nil {
				p.reply(schema.Receipt{}, fmt.Errorf("appending to %s: %w", l.dir, err))
			}
		}
		c.fold(s)
		return nil
	})
	if err != nil {
		return err
	}
	if err := l.committer.step("admitted"); err != nil {
		return err
	}
	if err := c.seal(); err != nil {
		return err
	}
	if err := c.store(); err != nil {
		return err
	}
	c.answer()
	return nil
}

// commit is one commit in the making.
type commit struct {
	*committer
	ledger   *Ledger
	base     int64 // size before it
	now      time.Time
	admitted []*pending
	entries  []newEntry
	leaves   []tlog.Hash // of entries
	indexes  map[identity]int64
	erasing  map[int64]int64   // entry whose body goes, to the entry that erases it
	holed    map[int64]segment // with bodies taken out, by their first entry
	cursors  map[string]string // moved, by key
	puts     []engine.Put
	next     *view       // what readers see after it; nil if no entry is new
	also     note.Signer // the new log key, in the commit of its rotation; else nil
}

// newEntry is an entry that the commit adds.
type newEntry struct {
	from     *request
	id       *identity
	envelope []byte
}

func (l *Ledger) newCommit(group []*pending) *commit {
	n := 0
	for _, p := range group {
		n += len(p.envelopes)
	}
	return &commit{
		committer: l.committer,
		ledger:    l,
		base:      l.committer.tree.size(),
		erasing:   map[int64]int64{},
		holed:     map[int64]segment{},
		admitted:  make([]*pending, 0, len(group)),
		entries:   make([]newEntry, 0, n),
		indexes:   make(map[identity]int64, n),
		cursors:   map[string]string{},
	}
}

// admit takes p into the commit, or changes nothing and says why not.
func (c *commit) admit(s engine.Snapshot, p *pending) error {
	r := p.request
	if err := c.checkCursors(s, r); err != nil {
		return err
	}
	known := len(c.entries)
	for i := range r.ids {
		recorded, err := c.place(s, p, i)
		if err != nil {
			c.takeBack(known, r)
			return err
		}
		p.places[i] = recorded
	}
	if r.erases > 0 {
		if err := c.erase(s, r.erases, p.places[0]); err != nil {
			c.takeBack(known, r)
			return err
		}
	}
	for _, cur := range r.cursors {
		c.cursors[string(cursorKey(r.namespace, cur.Source))] = cur.To
	}
	c.admitted = append(c.admitted, p)
	return nil
}

// checkCursors compares r's cursors with the stored ones, or with where a
// request before it in this commit moved them.
func (c *commit) checkCursors(s engine.Snapshot, r *request) error {
	for _, cur := range r.cursors {
		key := cursorKey(r.namespace, cur.Source)
		have, moved := c.cursors[string(key)]
		if !moved {
			var err error
			if have, err = readCursor(s, key); err != nil {
				return err
			}
		}
		if have != cur.From {
			return &CursorError{Source: cur.Source, Have: have, From: cur.From}
		}
	}
	return nil
}

// place finds where envelope i of p is or will be.
func (c *commit) place(s engine.Snapshot, p *pending, i int) (schema.Recorded, error) {
	id := &p.ids[i]
	if index, ok := c.indexes[*id]; ok {
		return schema.Recorded{Index: index, Duplicate: true}, nil
	}
	if p.places[i].Duplicate {
		return p.places[i], nil
	}
	// Its caller did not find it in the store, or need not look. What came
	// since then is in seen.
	if c.seen.has(id) {
		recorded, err := c.ledger.findDuplicate(s, c.ledger.view.Load(), *id)
		if err != nil || recorded.Duplicate {
			return recorded, err
		}
	}
	index := c.base + int64(len(c.entries))
	c.indexes[*id] = index
	c.entries = append(c.entries, newEntry{p.request, id, p.envelopes[i].Raw})
	return schema.Recorded{Index: index}, nil
}

// takeBack removes what a request added before it was refused.
func (c *commit) takeBack(known int, r *request) {
	c.entries = c.entries[:known]
	for _, id := range r.ids {
		if c.indexes[id] >= c.base+int64(known) {
			delete(c.indexes, id)
		}
	}
}

// seal makes everything that the commit will write. It changes the tree in
// memory, so that a failure from here on stops the ledger.
func (c *commit) seal() error {
	for key, at := range c.cursors {
		c.puts = append(c.puts, engine.Put{Key: []byte(key), Value: seal([]byte(at))})
	}
	if len(c.entries) == 0 {
		return nil
	}
	if c.now.IsZero() { // a rotation says in its entry when it is recorded
		c.now = c.clock()
	}
	c.tree.full = c.putTile
	defer func() { c.tree.full = nil }()
	if err := c.putSegments(); err != nil {
		return err
	}
	c.putErasures()
	c.putIdentities()
	return c.sign()
}

// putIdentities writes where the entries are found again.
func (c *commit) putIdentities() {
	const size = len(dedupPrefix) + len(identity{}) + 8
	all := make([]byte, 0, size*len(c.entries))
	for i, e := range c.entries {
		at := len(all)
		all = append(append(all, dedupPrefix...), e.id[:]...)
		all = binary.BigEndian.AppendUint64(all, uint64(c.base+int64(i)))
		put := all[at:]
		value := len(put) - 8
		c.puts = append(c.puts, engine.Put{Key: put[:value:value], Value: put[value:]})
	}
}

// clock is the time that the commit's entries are recorded at: UTC, to the
// microsecond, and never before that of the entry before.
func (c *commit) clock() time.Time {
	now := c.committer.now().UTC().Truncate(time.Microsecond)
	if now.Before(c.last) {
		return c.last
	}
	return now
}

func (c *commit) putTile(level int, index int64, hashes []tlog.Hash, leaves []commitment) {
	c.puts = append(c.puts, engine.Put{Key: tileKey(level, index), Value: encodeTile(hashes)})
	if level == 0 {
		c.puts = append(c.puts, engine.Put{Key: bundleKey(index), Value: encodeBundle(leaves)})
	}
}

// putSegments writes the entries into segments and adds them to the tree.
func (c *commit) putSegments() error {
	salts := make([]byte, len(c.entries)*schema.SaltSize)
	if _, err := rand.Read(salts); err != nil {
		return fmt.Errorf("making salts: %w", err)
	}
	headers := map[schema.Header][]byte{}
	var parts []part
	c.arena = c.arena[:0]
	for next := 0; next < len(c.entries); {
		p, err := c.part(next, headers)
		if err != nil {
			return err
		}
		parts = append(parts, p)
		next = p.end
	}
	leaves := make([]commitment, len(c.entries))
	c.fill(parts, salts, leaves)
	c.leaves = make([]tlog.Hash, len(leaves))
	c.puts = slices.Grow(c.puts, len(c.entries)+len(c.entries)/tileWidth+len(parts)+4)
	for _, p := range parts {
		first := c.base + int64(p.first)
		c.puts = append(c.puts, engine.Put{Key: segmentKey(first), Value: p.segment})
		c.note(first, p.end-p.first, len(p.segment))
	}
	for i, leaf := range leaves {
		var err error
		if c.leaves[i], err = c.tree.add(leaf); err != nil {
			return err
		}
	}
	return nil
}

// part is the part of a commit that one segment holds: its entries from first
// up to but not including end.
type part struct {
	first, end int
	headers    [maxSegmentEntries][]byte
	segment    segment // empty, with room for the entries
}

// part plans the segment of the entries from next on.
func (c *commit) part(next int, headers map[schema.Header][]byte) (part, error) {
	p := part{first: next, end: next}
	size := 0
	for ; p.end < len(c.entries) && p.end-next < maxSegmentEntries; p.end++ {
		header, err := c.header(c.entries[p.end].from, headers)
		if err != nil {
			return part{}, err
		}
		n := recordOverhead + schema.SaltSize + len(header) + len(c.entries[p.end].envelope)
		if p.end > next && size+n > maxSegmentBytes {
			break
		}
		size += n
		p.headers[p.end-next] = header
	}
	p.segment = c.carve(size)
	return p, nil
}

// fill fills the segments of parts, several at once where there are several,
// and sets leaves to the commitments of the entries. Copying and hashing
// bodies is most of what there is to do between two transactions.
func (c *commit) fill(parts []part, salts []byte, leaves []commitment) {
	one := func(p *part) {
		for i := p.first; i < p.end; i++ {
			salt := salts[i*schema.SaltSize:][:schema.SaltSize]
			p.segment, leaves[i] = p.segment.add(salt, p.headers[i-p.first], c.entries[i].envelope)
		}
	}
	if len(parts) == 1 {
		one(&parts[0])
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(parts), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(parts); n = int(next.Add(1)) - 1 {
				one(&parts[n])
			}
		})
	}
	wg.Wait()
}

// carve returns an empty slice with room for size bytes. It is good until the
// commit is stored.
func (c *commit) carve(size int) []byte {
	const keep = 16 << 20
	if len(c.arena)+size > cap(c.arena) {
		if size > keep {
			return make([]byte, 0, size)
		}
		c.arena = make([]byte, 0, max(size, min(2*cap(c.arena), keep)))
	}
	at := len(c.arena)
	c.arena = c.arena[:at+size]
	return c.arena[at : at : at+size]
}

// header encodes what the ledger says about r's entries, as it stands in a
// body behind the salt.
func (c *commit) header(r *request, done map[schema.Header][]byte) ([]byte, error) {
	h := schema.Header{RecordedAt: c.now, Namespace: r.namespace, Source: r.source, Submitter: r.submitter}
	if encoded, ok := done[h]; ok {
		return encoded, nil
	}
	body := schema.Body{Header: h}
	encoded, err := body.Encode()
	if err != nil {
		return nil, fmt.Errorf("encoding the header of an entry: %w", err)
	}
	done[h] = encoded[schema.SaltSize:]
	return done[h], nil
}

// sign makes the checkpoint over the grown tree. It leaves memory only inside
// the transaction that holds what it signs.
func (c *commit) sign() error {
	root, err := c.tree.root()
	if err != nil {
		return err
	}
	cp := verify.Checkpoint{Origin: c.ledger.genesis.origin, Size: c.tree.size(), Root: root}
	cp.Note, err = note.Sign(&note.Note{Text: verify.FormatCheckpoint(cp.Origin, cp.Size, cp.Root)}, c.signers()...)
	if err != nil {
		return fmt.Errorf("signing the checkpoint of size %d: %w", cp.Size, err)
	}
	if len(cp.Note) > maxSlotNote {
		return fmt.Errorf("signing the checkpoint of size %d: the note has %d bytes; the limit is %d", cp.Size, len(cp.Note), maxSlotNote)
	}
	c.next = &view{checkpoint: cp, edge: c.tree.edge.clone(), next: make(chan struct{})}
	c.puts = append(c.puts, engine.Put{Key: []byte(stateKey), Value: formatState(state{recordedAt: c.now, note: cp.Note})})
	return nil
}

// store makes the commit durable: the transaction first, then the checkpoint
// file, so that what the file says was signed is always there. Readers see it
// after that.
func (c *commit) store() error {
	if len(c.puts) == 0 {
		return nil
	}
	if err := c.step("commit"); err != nil {
		return err
	}
	c.ledger.unsigned.Lock()
	defer c.ledger.unsigned.Unlock()
	c.ledger.beyond = errBeyond // until it is known otherwise
	if err := c.ledger.engine.Commit(c.puts); err != nil {
		return err
	}
	if err := c.step("committed"); err != nil {
		return err
	}
	if c.next == nil {
		c.ledger.beyond = nil // cursors alone: the signed size stays
		return nil
	}
	if err := c.file.write(c.next.checkpoint.Note); err != nil {
		return err
	}
	if err := c.step("signed"); err != nil {
		return err
	}
	c.last = c.now
	for _, e := range c.entries {
		c.seen.add(e.id)
	}
	c.ledger.beyond = nil
	before := c.ledger.view.Swap(c.next)
	if before != nil {
		close(before.next)
	}
	return nil
}

// answer tells each caller where its envelopes are.
func (c *commit) answer() {
	cp := c.ledger.view.Load().checkpoint
	for _, p := range c.admitted {
		for i := range p.places {
			if at := p.places[i].Index - c.base; at >= 0 {
				p.places[i].LeafHash = c.leaves[at]
			}
		}
		p.reply(schema.Receipt{Entries: p.places, Size: cp.Size, Checkpoint: cp.Note}, nil)
	}
}

// state is what the store knows about itself.
type state struct {
	recordedAt time.Time // of the newest entry
	note       []byte    // the checkpoint of its size
}

func formatState(s state) []byte {
	return seal(append(binary.BigEndian.AppendUint64(nil, uint64(s.recordedAt.UnixMicro())), s.note...))
}

func parseState(sealed []byte) (state, error) {
	payload, err := unseal(sealed)
	if err != nil {
		return state{}, err
	}
	if len(payload) < 8 {
		return state{}, fmt.Errorf("%d bytes are too few", len(payload))
	}
	return state{
		recordedAt: time.UnixMicro(int64(binary.BigEndian.Uint64(payload))).UTC(),
		note:       append([]byte(nil), payload[8:]...),
	}, nil
}
