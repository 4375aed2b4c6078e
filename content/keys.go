package content

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// keyIndex says which object of the repository holds which key. It lies in
// 256 files by the first two digits of the digest, each a list of lines
//
//	KEY ' ' type ' ' size ' ' handle ' ' CRC-32C of all before, 8 hex digits
//
// that is only ever appended to, so that looking one key up reads a 256th of
// them. A line that does not check stands for nothing; the last valid line of
// a key counts. Lines of the types '+' and '-' say who holds a folder, and 'x'
// that a key is kept no more (see [Store.Release]).
type keyIndex struct {
	dir    string
	mu     sync.Mutex
	shards map[string]*shard
}

// shard is one file as far as it was read.
type shard struct {
	read    int64
	records map[schema.Key]record
	holders map[schema.Key]map[string]bool // of records of the kind kindHeld
	bad     int                            // lines that do not check
	// damagedEnd says that the last line is whole but for its newline: that is
	// damage, where a mere beginning of a line is a write that a crash cut off.
	damagedEnd bool
}

// damagedEnd says whether tail is a line that parses, with another byte than a
// newline behind it.
func damagedEnd(tail []byte, parses func([]byte) bool) bool {
	return len(tail) > 0 && parses(tail[:len(tail)-1])
}

// record says where the bytes of a key are.
type record struct {
	kind   byte   // one of the kinds below
	size   int64  // bytes of the file, or of all files of the folder
	handle string // object of the repository, or the key that an alias stands for
}

// Kinds of records. Those of the first three are kept for good.
const (
	kindFile   = 'f'
	kindFolder = 'd'
	kindAlias  = 'a'
	kindMember = 'm' // a file, kept as long as a folder that lists it is
	kindHeld   = 's' // a folder, kept as long as somebody holds it
	kindHold   = '+' // the handle is who holds the folder from now on
	kindLetGo  = '-' // the handle is who holds the folder no more
	kindGone   = 'x' // nothing is kept under the key any more
)

func (r record) file() bool   { return r.kind == kindFile || r.kind == kindMember }
func (r record) folder() bool { return r.kind == kindFolder || r.kind == kindHeld }

// good says whether what is recorded is kept for good.
func (r record) good() bool { return r.kind == kindFile || r.kind == kindFolder || r.kind == kindAlias }

func newShard() *shard {
	return &shard{records: map[schema.Key]record{}, holders: map[schema.Key]map[string]bool{}}
}

func shardOf(k schema.Key) string {
	h := k.Hex()
	if len(h) < 2 {
		return "00"
	}
	return h[:2]
}

// get looks k up on disk as it is now, whoever wrote it.
func (x *keyIndex) get(k schema.Key) (record, bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s, err := x.load(shardOf(k))
	if err != nil {
		return record{}, false, err
	}
	r, ok := s.records[k]
	return r, ok, nil
}

// load reads what was added to a shard since it was last looked at.
func (x *keyIndex) load(name string) (*shard, error) {
	if x.shards == nil {
		x.shards = map[string]*shard{}
	}
	s := x.shards[name]
	if s == nil {
		s = newShard()
		x.shards[name] = s
	}
	f, err := os.Open(filepath.Join(x.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		if s.read > 0 {
			x.shards[name] = newShard()
		}
		return x.shards[name], nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the content store's keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the content store's keys: %w", err)
	}
	if info.Size() < s.read { // replaced by a shorter one: start over
		s = newShard()
		x.shards[name] = s
	}
	if info.Size() == s.read {
		return s, nil
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, s.read, info.Size()-s.read))
	if err != nil {
		return nil, fmt.Errorf("reading the content store's keys: %w", err)
	}
	s.take(raw)
	return s, nil
}

// take reads whole lines. What follows the last newline is being written, or
// was torn by a crash, and is left for later.
func (s *shard) take(raw []byte) {
	for {
		line, rest, ok := bytes.Cut(raw, []byte{'\n'})
		s.damagedEnd = !ok && damagedEnd(raw, parsesAsRecord)
		if !ok {
			return
		}
		if k, r, ok := parseRecord(line); ok {
			s.note(k, r)
		} else {
			s.bad++
		}
		s.read += int64(len(line)) + 1
		raw = rest
	}
}

// note takes what one line says.
func (s *shard) note(k schema.Key, r record) {
	switch r.kind {
	case kindHold:
		if s.holders[k] == nil {
			s.holders[k] = map[string]bool{}
		}
		s.holders[k][r.handle] = true
	case kindLetGo:
		delete(s.holders[k], r.handle)
	case kindGone:
		delete(s.records, k)
		delete(s.holders, k)
	default:
		// Two may have put the same at once: what one of them has kept for good is.
		if old, ok := s.records[k]; !ok || r.good() || !old.good() {
			s.records[k] = r
		}
	}
}

// refresh reads what was added to all shards, for many calls of peek.
func (x *keyIndex) refresh() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	entries, err := os.ReadDir(x.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the content store's keys: %w", err)
	}
	for _, e := range entries {
		if _, err := x.load(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// peek looks k up as it was when it was last read from the disk.
func (x *keyIndex) peek(k schema.Key) (record, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.shards[shardOf(k)]
	if s == nil {
		return record{}, false
	}
	r, ok := s.records[k]
	return r, ok
}

// holds says whether holder holds k, and how many others do, as it was when it
// was last read from the disk.
func (x *keyIndex) holds(k schema.Key, holder string) (mine bool, others int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.shards[shardOf(k)]
	if s == nil {
		return false, 0
	}
	for h := range s.holders[k] {
		if h == holder {
			mine = true
		} else {
			others++
		}
	}
	return mine, others
}

// line is a record with its key.
type line struct {
	key schema.Key
	record
}

// add appends lines, in their order, and returns when they are durable. The
// caller holds the lock of the store and has made durable what they point at.
func (x *keyIndex) add(added ...line) error {
	lines := map[string][]byte{}
	for _, l := range added {
		name := shardOf(l.key)
		lines[name] = appendRecord(lines[name], l.key, l.record)
	}
	if err := os.MkdirAll(x.dir, 0o700); err != nil {
		return fmt.Errorf("adding to the content store's keys: %w", err)
	}
	var g errgroup.Group
	g.SetLimit(transfers) // each waits for the disk
	for name, b := range lines {
		g.Go(func() error { return appendDurably(filepath.Join(x.dir, name), b, parsesAsRecord) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("adding to the content store's keys: %w", err)
	}
	return syncDir(x.dir)
}

// appendDurably appends lines to a file. A torn last line, which was never
// acknowledged, is cut off first; a damaged one is kept, to be found.
func appendDurably(name string, b []byte, parses func([]byte) bool) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	end, tail, err := lastLine(f)
	if damagedEnd(tail, parses) {
		end, b = end+int64(len(tail)), append([]byte{'\n'}, b...)
	}
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.WriteAt(b, end)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// maxRecord is longer than any line, in bytes.
const maxRecord = 4096

// lastLine is the offset behind the last newline of f and what follows it.
func lastLine(f *os.File) (int64, []byte, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, nil, err
	}
	from := max(0, info.Size()-maxRecord)
	buf := make([]byte, info.Size()-from)
	if _, err := io.ReadFull(io.NewSectionReader(f, from, int64(len(buf))), buf); err != nil {
		return 0, nil, err
	}
	i := bytes.LastIndexByte(buf, '\n')
	if i < 0 && from > 0 {
		return 0, nil, fmt.Errorf("%s ends in %d bytes that are no record", f.Name(), len(buf))
	}
	return from + int64(i) + 1, buf[i+1:], nil
}

// each calls fn for every key of the store, in no order, and returns how many
// lines do not check.
func (x *keyIndex) each(fn func(schema.Key, record)) (bad int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	entries, err := os.ReadDir(x.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("reading the content store's keys: %w", err)
	}
	for _, e := range entries {
		delete(x.shards, e.Name()) // from the disk, not from memory
		s, err := x.load(e.Name())
		if err != nil {
			return bad, err
		}
		bad += s.bad
		if s.damagedEnd {
			bad++
		}
		for k, r := range s.records {
			fn(k, r)
		}
	}
	return bad, nil
}

func appendRecord(dst []byte, k schema.Key, r record) []byte {
	line := fmt.Sprintf("%s %c %d %s ", k, r.kind, r.size, r.handle)
	return fmt.Appendf(dst, "%s%08x\n", line, crc(line))
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func crc(s string) uint32 { return crc32.Checksum([]byte(s), castagnoli()) }

// checkedLine returns what stands before the checksum that ends a line, with
// the space between, if the checksum is right.
func checkedLine(s string) (string, bool) {
	i := strings.LastIndexByte(s, ' ') + 1
	return s[:i], s[i:] == fmt.Sprintf("%08x", crc(s[:i]))
}

func parsesAsRecord(line []byte) bool {
	_, _, ok := parseRecord(line)
	return ok
}

// parseRecord is the inverse of appendRecord, without the newline.
func parseRecord(line []byte) (schema.Key, record, bool) {
	body, ok := checkedLine(string(line))
	if !ok {
		return "", record{}, false
	}
	fields := strings.Split(body, " ")
	if len(fields) != 5 || len(fields[1]) != 1 || !strings.Contains("fdams+-x", fields[1]) {
		return "", record{}, false
	}
	k, err := schema.ParseKey(fields[0])
	if err != nil {
		return "", record{}, false
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || size < 0 {
		return "", record{}, false
	}
	return k, record{kind: fields[1][0], size: size, handle: fields[3]}, true
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
