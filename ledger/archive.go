package ledger

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/verify"
)

// BackupError says that what was read is no backup, or not all of one.
type BackupError struct {
	Problem string
	Err     error // the cause, if there is one beneath
}

func (e *BackupError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the backup is damaged or cut off: %s: %v", e.Problem, e.Err)
	}
	return "the backup is damaged or cut off: " + e.Problem
}

// Unwrap returns the cause, if there is one.
func (e *BackupError) Unwrap() error { return e.Err }

func badBackup(format string, args ...any) error {
	return &BackupError{Problem: fmt.Sprintf(format, args...)}
}

// backupReader reads the members of a backup in order. It holds one of them at
// a time.
type backupReader struct {
	raw        *summedReader
	tr         *tar.Reader
	head       backupHead
	checkpoint verify.Checkpoint
	vkey       []byte
	verifier   note.Verifier
	secret     []byte // nil if there is none

	size     int64 // entries read
	withheld int64 // of them
	stage    int   // of the newest member, in stages
	ahead    *member
}

type member struct {
	name string
	data []byte
}

// summedReader sums what it reads. It hides that a file could seek, so that
// nothing is passed over unread.
type summedReader struct {
	r   io.Reader
	sum hash.Hash
}

func (s *summedReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	return n, err
}

// openBackup reads the beginning of a backup: what it holds and under which
// checkpoint, which key signed. A nil key stands for the one in the backup.
func openBackup(r io.Reader, key note.Verifier) (*backupReader, error) {
	b := &backupReader{raw: &summedReader{r, sha256.New()}}
	b.tr = tar.NewReader(b.raw)
	name, raw, err := b.next()
	if err != nil {
		return nil, err
	}
	if name != headMember {
		return nil, badBackup("it begins with %q, and a backup with %s", clip(name), headMember)
	}
	if err := json.Unmarshal(raw, &b.head, json.RejectUnknownMembers(true)); err != nil {
		return nil, &BackupError{headMember, err}
	}
	if b.head.Format != backupFormat {
		return nil, fmt.Errorf("the backup has format %d, and this program reads %d", b.head.Format, backupFormat)
	}
	if name, b.vkey, err = b.next(); err != nil {
		return nil, err
	}
	if name != vkeyMember {
		return nil, badBackup("%s is not where it belongs", vkeyMember)
	}
	if b.verifier = key; key == nil {
		if b.verifier, err = verify.ParseLogKey(b.vkey, b.head.Origin); err != nil {
			return nil, &BackupError{vkeyMember, err}
		}
	}
	if b.checkpoint, err = verify.OpenCheckpoint([]byte(b.head.Checkpoint), b.verifier); err != nil {
		return nil, fmt.Errorf("the checkpoint of the backup: %w", err)
	}
	if b.checkpoint.Size != b.head.Size || b.checkpoint.Origin != b.head.Origin {
		return nil, badBackup("%s contradicts its own checkpoint", headMember)
	}
	if name, raw, err = b.next(); err != nil {
		return nil, err
	}
	if name != secretMember {
		b.ahead = &member{name, raw}
		return b, nil
	}
	if len(raw) != secretSize {
		return nil, badBackup("%s has %d bytes, not %d", secretMember, len(raw), secretSize)
	}
	b.secret = raw
	return b, nil
}

// stages are the members in their order. One whose name ends in a slash stands
// for any number of them, as does "key".
var stages = []string{headMember, vkeyMember, secretMember, "key", cursorMember, cosignedMember, entriesMember, duplicatesMember, endMember}

// stageOf is where in the order a member belongs; -1 if nowhere.
func stageOf(name string) (stage int, many bool) {
	for i, s := range stages {
		switch {
		case s == name && s != "key":
			return i, false
		case strings.HasSuffix(s, "/") && strings.HasPrefix(name, s):
			return i, true
		case s == "key" && keyMember.MatchString(name):
			return i, true
		}
	}
	return -1, false
}

// next returns the next member. The last one that it returns is endMember;
// then everything was read and its sum is right.
func (b *backupReader) next() (string, []byte, error) {
	if m := b.ahead; m != nil {
		b.ahead = nil
		return m.name, m.data, nil
	}
	h, err := b.tr.Next()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // a backup has an end of its own
		}
		return "", nil, &BackupError{"behind " + b.place(), err}
	}
	sum := b.raw.sum.Sum(nil)
	stage, many := stageOf(h.Name)
	switch {
	case stage < 0 || h.Typeflag != tar.TypeReg:
		return "", nil, badBackup("it holds %q, which belongs to no backup", clip(h.Name))
	case stage < b.stage || stage == b.stage && !many && stage > 0:
		return "", nil, badBackup("%s comes too late or twice", h.Name)
	case h.Size > memberLimit(h.Name):
		return "", nil, badBackup("%s has %d bytes; the limit is %d", h.Name, h.Size, memberLimit(h.Name))
	}
	b.stage = stage
	// Grown as it is read: a size in a header is only a claim.
	var data bytes.Buffer
	if _, err := io.Copy(&data, b.tr); err != nil {
		return "", nil, &BackupError{h.Name, err}
	}
	if err := b.count(h.Name, data.Bytes()); err != nil {
		return "", nil, err
	}
	if h.Name == endMember {
		return h.Name, nil, b.checkEnd(sum, data.Bytes())
	}
	return h.Name, data.Bytes(), nil
}

func (b *backupReader) place() string {
	if b.size > 0 {
		return fmt.Sprintf("entry %d", b.size-1)
	}
	return stages[b.stage]
}

func memberLimit(name string) int64 {
	if strings.HasPrefix(name, entriesMember) || strings.HasPrefix(name, duplicatesMember) || strings.HasPrefix(name, cursorMember) {
		return maxMember
	}
	return maxSmall
}

// count checks that entries follow each other without a gap.
func (b *backupReader) count(name string, data []byte) error {
	if !strings.HasPrefix(name, entriesMember) {
		return nil
	}
	if name != entriesName(b.size) {
		return badBackup("%s follows entry %d", name, b.size-1)
	}
	return recordsOf(name, data, func(rec record) error {
		if rec.withheld {
			b.withheld++
		}
		if b.size++; b.size > b.head.Size {
			return badBackup("it has more entries than the %d of its checkpoint", b.head.Size)
		}
		return nil
	})
}

// checkEnd compares the sum of what was read with the one at the end, behind
// which only zeros may be.
func (b *backupReader) checkEnd(sum, data []byte) error {
	if hex.EncodeToString(sum) != string(data) {
		return badBackup("its bytes do not have the SHA-256 that stands at its end")
	}
	if b.size != b.head.Size {
		return badBackup("it has %d entries, and its checkpoint says %d", b.size, b.head.Size)
	}
	const blocks = 512 - 2*sha256.Size + 2*512 // of padding, and at the end of a tar file
	rest, err := io.ReadAll(io.LimitReader(b.raw, blocks+1))
	if err != nil {
		return &BackupError{"at its end", err}
	}
	if len(rest) != blocks || bytes.Count(rest, []byte{0}) != blocks {
		return badBackup("behind its end is not what a tar file ends with")
	}
	return nil
}

// parseCursor splits a cursor member into the key and the sealed value.
func parseCursor(data []byte) (key, sealed []byte, err error) {
	if len(data) < 4 {
		return nil, nil, badBackup("a cursor of %d bytes", len(data))
	}
	n := binary.BigEndian.Uint32(data)
	if int64(n) > int64(len(data)-4) {
		return nil, nil, badBackup("a cursor without a source")
	}
	key, sealed = data[4:4+n], data[4+n:]
	if !bytes.HasPrefix(key, []byte(cursorPrefix)) {
		return nil, nil, badBackup("a cursor under the key %q", clip(string(key)))
	}
	if _, err := unseal(sealed); err != nil {
		return nil, nil, &BackupError{fmt.Sprintf("cursor %q", clip(string(key))), err}
	}
	return key, sealed, nil
}
