package ledger

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// A backup is one tar stream (POSIX.1-2001) of these members, in this order:
//
//	retrace-backup.json  backupHead
//	log.vkey             the public key that the checkpoint is signed with
//	dedup.key            the secret of the identities, where there is one
//	*.key, *.pub         with keys: private keys and their public halves
//	cursors/N            uint32 length ‖ key ‖ sealed value, of one cursor
//	cosigned             the newest checkpoint with cosignatures, where there is one
//	entries/FIRST        consecutive records, as a segment has them
//	duplicates/N         hmac(32) ‖ index(8) of erased entries, whose envelope
//	                     nobody could compute it from again
//	end                  SHA-256, in hex, of all bytes before its content
//
// Behind the end are zeros. Numbers are big-endian.
const (
	headMember       = "retrace-backup.json"
	vkeyMember       = "log.vkey"
	secretMember     = "dedup.key"
	cursorMember     = "cursors/"
	cosignedMember   = "cosigned"
	entriesMember    = "entries/"
	duplicatesMember = "duplicates/"
	endMember        = "end"
)

// keyMember are the names of key files that a backup may hold.
var keyMember = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*\.(key|pub)$`)

// backupFormat is the number of the format.
const backupFormat = 1

// Sizes of members, in bytes. A single entry may be larger than memberBytes,
// and maxMember holds the largest there is.
const (
	memberBytes   = 1 << 20
	maxMember     = 8 << 20
	maxSmall      = 64 << 10
	duplicateSize = sha256.Size + 8
)

// backupHead says what a backup holds.
type backupHead struct {
	Format     int      `json:"format"`
	Origin     string   `json:"origin"`
	Size       int64    `json:"size"`
	Checkpoint string   `json:"checkpoint"`       // the signed note that the entries lead to
	Keys       []string `json:"keys,omitempty"`   // names of the private keys that are in it
	Mirror     bool     `json:"mirror,omitempty"` // of a mirror, which may lack bodies
}

// BackupInfo is what a backup holds.
type BackupInfo struct {
	Checkpoint verify.Checkpoint
	Bytes      int64    // of the backup
	Keys       []string // names of the private keys in it
	Withheld   int64    // entries of which it has no body, since the mirror had none
}

// Backup writes a backup of l to w: everything below the size that is signed
// when it is called, while others go on appending. Each entry is checked on the
// way, so that damage is found now and not when the backup is needed. Private
// keys are in it if withKeys is set, and the secret under which duplicates are
// recognized is in any case. After an error, what w got is no backup.
func (l *Ledger) Backup(ctx context.Context, w io.Writer, withKeys bool, report func(Progress)) (BackupInfo, error) {
	b := &backup{archive: newArchive(w), ctx: ctx, ledger: l, report: report, erased: map[int64]bool{}}
	if b.report == nil {
		b.report = func(Progress) {}
	}
	// Cursors never run ahead of the view: no commit is between the two while
	// the lock is held, and the snapshot keeps it so.
	l.unsigned.RLock()
	unlock := sync.OnceFunc(l.unsigned.RUnlock)
	defer unlock()
	if l.beyond != nil {
		return BackupInfo{}, fmt.Errorf("backing up %s: %w", l.dir, l.beyond)
	}
	b.view = l.view.Load()
	err := l.reading(ctx, func(s engine.Snapshot) error {
		unlock()
		return b.write(s, withKeys)
	})
	if err != nil {
		return BackupInfo{}, fmt.Errorf("backing up %s: %w", l.dir, err)
	}
	return BackupInfo{Checkpoint: b.view.checkpoint, Bytes: b.n, Keys: b.keys, Withheld: b.withheld}, nil
}

// backup is one backup in the making.
type backup struct {
	*archive
	ctx      context.Context
	ledger   *Ledger
	view     *view
	report   func(Progress)
	keys     []string
	withheld int64
	erased   map[int64]bool
}

func (b *backup) write(s engine.Snapshot, withKeys bool) error {
	target, err := readTarget(s, b.ledger.verifier)
	if err != nil {
		return err
	}
	files, err := keyFiles(b.ledger.dir, withKeys)
	if err != nil {
		return err
	}
	b.keys = privateKeys(files)
	cp := b.view.checkpoint
	head := backupHead{Format: backupFormat, Origin: cp.Origin, Size: cp.Size, Checkpoint: string(cp.Note), Keys: b.keys, Mirror: target.Size > 0}
	if err := b.addHead(head); err != nil {
		return err
	}
	for _, name := range append([]string{vkeyMember, secretMember}, files...) {
		if err := b.addFile(b.ledger.dir, name, name != secretMember); err != nil {
			return err
		}
	}
	for _, part := range []func(engine.Snapshot) error{b.addCursors, b.addCosigned, b.addEntries, b.addDuplicates} {
		if err := part(s); err != nil {
			return err
		}
	}
	return b.end()
}

// keyFiles are the names of the key files of dir that go into a backup.
func keyFiles(dir string, withKeys bool) ([]string, error) {
	if !withKeys {
		return nil, nil
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range all {
		if f.Type().IsRegular() && keyMember.MatchString(f.Name()) && f.Name() != secretMember {
			names = append(names, f.Name())
		}
	}
	if len(privateKeys(names)) == 0 {
		return nil, fmt.Errorf("%s holds no private key to put into the backup", dir)
	}
	return names, nil
}

func privateKeys(names []string) []string {
	var out []string
	for _, name := range names {
		if filepath.Ext(name) == ".key" {
			out = append(out, name)
		}
	}
	return out
}

func (b *backup) addCursors(s engine.Snapshot) error {
	n := 0
	for item, err := range s.Ascend([]byte(cursorPrefix), prefixEnd(cursorPrefix)) {
		if err != nil {
			return &DamageError{Where: "store", Problem: "the cursors cannot be read", Err: err}
		}
		key := slices.Clone(item.Key())
		if _, err := readCursor(s, key); err != nil {
			return err
		}
		data := append(binary.BigEndian.AppendUint32(nil, uint32(len(key))), key...)
		err = readValue("a cursor", item.Value, func(value []byte) error {
			data = append(data, value...)
			return nil
		})
		if err != nil {
			return err
		}
		if err := b.add(fmt.Sprintf("%s%06d", cursorMember, n), data); err != nil {
			return err
		}
		n++
	}
	return nil
}

func (b *backup) addCosigned(engine.Snapshot) error {
	return b.addFile(b.ledger.dir, cosignedMember, false)
}

// addEntries writes the records below the size and compares what they give
// with the checkpoint.
func (b *backup) addEntries(s engine.Snapshot) error {
	cp := b.view.checkpoint
	t := newTree()
	var member segment
	first := int64(0)
	flush := func() error {
		if len(member) == 0 {
			return nil
		}
		err := b.add(entriesName(first), member)
		member, first = member[:0], t.size()
		b.report(Progress{t.size(), cp.Size})
		return err
	}
	for t.size() < cp.Size {
		err := findSegment(s, t.size(), func(from int64, seg segment) error {
			at, before := from, t.size()
			for rec, err := range seg.records() {
				if err != nil {
					return damage(segmentName(from), "%v", err)
				}
				if at == t.size() && at < cp.Size {
					if len(member) > 0 && len(member)+recordOverhead+len(rec.body) > memberBytes {
						if err := flush(); err != nil {
							return err
						}
					}
					if err := b.takeRecord(t, rec); err != nil {
						return err
					}
					member = member.put(rec)
				}
				at++
			}
			if t.size() == before {
				return damage(entryName(before), "missing: the segment from %d on ends before it", from)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if root, err := t.root(); err != nil || root != cp.Root {
		return errors.Join(err, damage(fmt.Sprintf("checkpoint of size %d", cp.Size), "it signs root %s, and the entries give %s", cp.Root, root))
	}
	return nil
}

// takeRecord checks a record and adds it to the tree.
func (b *backup) takeRecord(t *tree, rec record) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	index := t.size()
	if !rec.right() {
		return damage(entryName(index), "its body is not the one that its commitment stands for")
	}
	if rec.withheld {
		b.withheld++
	} else if len(rec.body) == 0 {
		b.erased[index] = true
	}
	_, err := t.add(rec.commitment)
	return err
}

func entriesName(first int64) string { return fmt.Sprintf("%s%012d", entriesMember, first) }

// addDuplicates writes what the index of duplicates knows of erased entries.
func (b *backup) addDuplicates(s engine.Snapshot) error {
	if len(b.erased) == 0 {
		return nil
	}
	n := 0
	var data []byte
	flush := func() error {
		if len(data) == 0 {
			return nil
		}
		err := b.add(fmt.Sprintf("%s%06d", duplicatesMember, n), data)
		data, n = data[:0], n+1
		return err
	}
	for key, value := range duplicates(s) {
		if index := int64(binary.BigEndian.Uint64(value)); !b.erased[index] {
			continue
		}
		data = append(append(data, key[len(dedupPrefix):]...), value...)
		if len(data) >= memberBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// duplicates yields the index of duplicates, as far as it can be read.
func duplicates(s engine.Snapshot) func(yield func(key, value []byte) bool) {
	return func(yield func(key, value []byte) bool) {
		for item, err := range s.Ascend([]byte(dedupPrefix), prefixEnd(dedupPrefix)) {
			if err != nil {
				return
			}
			goOn := true
			err := item.Value(func(value []byte) error {
				if key := item.Key(); len(key) == len(dedupPrefix)+sha256.Size && len(value) == 8 {
					goOn = yield(key, value)
				}
				return nil
			})
			if err != nil || !goOn {
				return
			}
		}
	}
}

// archive writes the members of a backup.
type archive struct {
	tw  *tar.Writer
	sum hash.Hash
	n   int64
	out io.Writer
}

func newArchive(w io.Writer) *archive {
	a := &archive{sum: sha256.New(), out: w}
	a.tw = tar.NewWriter(a)
	return a
}

// Write implements io.Writer for the tar writer.
func (a *archive) Write(p []byte) (int, error) {
	n, err := a.out.Write(p)
	a.sum.Write(p[:n])
	a.n += int64(n)
	return n, err
}

func (a *archive) add(name string, data []byte) error {
	mode := int64(0o600)
	if filepath.Ext(name) == ".pub" || name == vkeyMember {
		mode = 0o644
	}
	if err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: mode, Format: tar.FormatUSTAR}); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if name == endMember { // of everything before its content
		data = hex.AppendEncode(nil, a.sum.Sum(nil))
	}
	if _, err := a.tw.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

func (a *archive) addHead(h backupHead) error {
	raw, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return a.add(headMember, raw)
}

// addFile adds a small file of dir. One that need not be there may be missing.
func (a *archive) addFile(dir, name string, needed bool) error {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) && !needed {
		return nil
	}
	if err != nil {
		return err
	}
	if len(raw) > maxSmall {
		return fmt.Errorf("%s has %d bytes; a backup takes %d", filepath.Join(dir, name), len(raw), maxSmall)
	}
	return a.add(name, raw)
}

func (a *archive) end() error {
	if err := a.add(endMember, make([]byte, hex.EncodedLen(sha256.Size))); err != nil {
		return err
	}
	return a.tw.Close()
}

// CopyBackup copies the backup in r, such as one that a server sends, to w and
// checks that it is whole. With keys, the private keys in dir are put into it:
// they go over no wire.
func CopyBackup(ctx context.Context, w io.Writer, r io.Reader, dir string, withKeys bool, report func(Progress)) (BackupInfo, error) {
	files, err := keyFiles(dir, withKeys)
	if err != nil {
		return BackupInfo{}, fmt.Errorf("copying a backup: %w", err)
	}
	in, err := openBackup(r, nil)
	if err != nil {
		return BackupInfo{}, fmt.Errorf("copying a backup: %w", err)
	}
	out := newArchive(w)
	info, err := in.copyTo(ctx, out, dir, files, report)
	if err != nil {
		return BackupInfo{}, fmt.Errorf("copying a backup: %w", err)
	}
	return info, nil
}

func (b *backupReader) copyTo(ctx context.Context, out *archive, dir string, files []string, report func(Progress)) (BackupInfo, error) {
	info := BackupInfo{Checkpoint: b.checkpoint, Keys: b.head.Keys}
	if len(files) > 0 {
		b.head.Keys = privateKeys(files)
		info.Keys = b.head.Keys
	}
	if err := out.addHead(b.head); err != nil {
		return info, err
	}
	if err := out.add(vkeyMember, b.vkey); err != nil {
		return info, err
	}
	if b.secret != nil {
		if err := out.add(secretMember, b.secret); err != nil {
			return info, err
		}
	}
	for _, name := range files {
		if err := out.addFile(dir, name, true); err != nil {
			return info, err
		}
	}
	for {
		if err := ctx.Err(); err != nil {
			return info, err
		}
		name, data, err := b.next()
		if err != nil {
			return info, err
		}
		if name == endMember {
			break
		}
		if report != nil {
			report(Progress{b.size, b.checkpoint.Size})
		}
		if err := out.add(name, data); err != nil {
			return info, err
		}
	}
	err := out.end()
	info.Bytes, info.Withheld = out.n, b.withheld
	return info, err
}

// recordsOf yields the records of an entries member that begins at first.
func recordsOf(name string, data []byte, fn func(rec record) error) error {
	for rec, err := range segment(data).records() {
		if err != nil {
			return &schema.FieldError{Field: name, Reason: err.Error()}
		}
		if err := fn(rec); err != nil {
			return err
		}
	}
	return nil
}
