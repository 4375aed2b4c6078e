package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// known is what a folder held when it was last read, so that files that did not
// change since are not read again. A file counts as unchanged if size, both
// times, inode, device and executable bit are what they were. Programs can set
// the time of modification, but not that of the last change (ctime), which the
// system sets with every write, chmod, link and rename.
//
// It lies in the cache and can be deleted: everything is read then.
type known struct {
	file  string
	files map[string]fingerprint // of the last read

	mu   sync.Mutex
	next map[string]fingerprint // of this read
	read int                    // files that this one read
}

// fingerprint is what one file was, and the digest that it had.
type fingerprint struct {
	Size, Modified, Changed int64 // bytes; ns
	Inode, Device           uint64
	Exec                    bool
	SHA256                  [sha256.Size]byte
}

// settled is how long before it was read a file must have been left alone for
// its digest to be relied on the next time. A write within the granularity of
// the clock of the file system, milliseconds to two seconds, changes no time;
// one through a mapping of the file into memory changes none until the system
// has written the page out, within some 35 s; network file systems cache
// times, for up to a minute.
const settled = time.Minute

// openKnown reads what is known of the folder dir. What is missing or damaged
// stands for nothing known.
func openKnown(cache, dir string) *known {
	k := &known{files: map[string]fingerprint{}, next: map[string]fingerprint{}}
	if cache == "" {
		return k
	}
	sum := sha256.Sum256([]byte(dir))
	k.file = filepath.Join(cache, hex.EncodeToString(sum[:16]))
	raw, err := os.ReadFile(k.file)
	if err != nil || len(raw) < 4 {
		return k
	}
	body, crc := raw[:len(raw)-4], binary.BigEndian.Uint32(raw[len(raw)-4:])
	if crc32.Checksum(body, castagnoli()) != crc {
		return k
	}
	files := map[string]fingerprint{}
	if gob.NewDecoder(bytes.NewReader(body)).Decode(&files) == nil {
		k.files = files
	}
	return k
}

// digest returns the digest that the file at member had when it was last read,
// if it did not change since.
func (k *known) digest(member string, info fs.FileInfo) (string, bool) {
	now, ok := fingerprintOf(info)
	if !ok {
		return "", false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	then, ok := k.files[member]
	now.SHA256 = then.SHA256
	if !ok || now != then {
		return "", false
	}
	k.next[member] = then
	return hex.EncodeToString(then.SHA256[:]), true
}

// add notes the digest of a file that was described by info when reading it
// began at the time read.
func (k *known) add(member string, info fs.FileInfo, sum string, read time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read++
	f, ok := fingerprintOf(info)
	if !ok || read.Add(-settled).UnixNano() < f.Changed {
		return
	}
	if n, err := hex.Decode(f.SHA256[:], []byte(sum)); err == nil && n == len(f.SHA256) {
		k.next[member] = f
	}
}

// again has what was read so far count as known, for a second look at the folder.
func (k *known) again() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for member, f := range k.next {
		k.files[member] = f
	}
}

// save keeps what is known now. A crash leaves the old state, the new one, or
// one that does not check.
func (k *known) save() error {
	if k.file == "" {
		return nil
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(k.next); err != nil {
		return err
	}
	raw := binary.BigEndian.AppendUint32(b.Bytes(), crc32.Checksum(b.Bytes(), castagnoli()))
	if err := os.MkdirAll(filepath.Dir(k.file), 0o700); err != nil {
		return fmt.Errorf("noting what was read: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(k.file), ".new-")
	if err != nil {
		return fmt.Errorf("noting what was read: %w", err)
	}
	_, err = tmp.Write(raw)
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(tmp.Name(), k.file)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("noting what was read: %w", err)
	}
	return nil
}
