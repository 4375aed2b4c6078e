package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/ledger/internal/disk"
	"github.com/retrace-ledger/retrace/verify"
)

// The checkpoint file has two slots that are written in turn, so that the one
// before survives whatever interrupts the writing of a new one. It is
// allocated once: writing a slot changes no metadata and costs one fdatasync.
//
//	magic(8) ‖ uint32 length ‖ SHA-256(note)(32) ‖ note ‖ zeros up to 4096
const (
	slotSize     = 4096
	slotCount    = 2
	slotMagic    = "rtcheck1"
	slotOverhead = len(slotMagic) + 4 + sha256.Size
	maxSlotNote  = slotSize - slotOverhead
)

// errEmptySlot says that a slot was never written.
var errEmptySlot = errors.New("never written")

func formatSlot(signed []byte) ([]byte, error) {
	if len(signed) > maxSlotNote {
		return nil, fmt.Errorf("the signed note has %d bytes; a slot of the checkpoint file holds %d", len(signed), maxSlotNote)
	}
	sum := sha256.Sum256(signed)
	slot := make([]byte, 0, slotSize)
	slot = append(slot, slotMagic...)
	slot = binary.BigEndian.AppendUint32(slot, uint32(len(signed)))
	slot = append(slot, sum[:]...)
	slot = append(slot, signed...)
	return slot[:slotSize], nil
}

// parseSlot is the inverse of formatSlot. It refuses every slot that
// formatSlot did not write, with errEmptySlot for one of zeros.
func parseSlot(slot []byte) ([]byte, error) {
	if len(slot) != slotSize {
		return nil, fmt.Errorf("%d bytes, not %d", len(slot), slotSize)
	}
	if bytes.Count(slot, []byte{0}) == slotSize {
		return nil, errEmptySlot
	}
	if string(slot[:len(slotMagic)]) != slotMagic {
		return nil, fmt.Errorf("it begins with %q, not %q", slot[:len(slotMagic)], slotMagic)
	}
	n := binary.BigEndian.Uint32(slot[len(slotMagic):])
	if n > uint32(maxSlotNote) {
		return nil, fmt.Errorf("a note of %d bytes; at most %d fit", n, maxSlotNote)
	}
	signed := slot[slotOverhead : slotOverhead+int(n)]
	if sha256.Sum256(signed) != [sha256.Size]byte(slot[len(slotMagic)+4:]) {
		return nil, errors.New("its SHA-256 is not the one stored with it")
	}
	if again, err := formatSlot(signed); err != nil || !bytes.Equal(again, slot) {
		return nil, errors.New("the rest of it is not zero")
	}
	return bytes.Clone(signed), nil
}

// checkpointFile is the file that says what was signed last.
type checkpointFile struct {
	f    *os.File
	next int // the slot to write next: the one that does not hold the newest
}

func checkpointPath(dir string) string { return filepath.Join(dir, "checkpoint") }

// createCheckpointFile makes the file with signed in its first slot, durably.
func createCheckpointFile(dir string, signed []byte) error {
	slot, err := formatSlot(signed)
	if err != nil {
		return err
	}
	path := checkpointPath(dir)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(append(slot, make([]byte, slotSize*(slotCount-1))...)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return disk.SyncDir(dir)
}

// openCheckpointFile reads the checkpoints in the slots, the newest last. A
// slot that is torn or damaged is passed over for the other; faults says what
// was wrong. Without a readable slot it is not known what was signed, and the
// error is a *DamageError. A slot may also hold what one of older signed, the
// log's keys before v.
func openCheckpointFile(dir string, v note.Verifier, writable bool, older ...note.Verifier) (_ *checkpointFile, signed []verify.Checkpoint, faults []string, err error) {
	path := checkpointPath(dir)
	mode := os.O_RDONLY
	if writable {
		mode = os.O_RDWR
	}
	file, err := os.OpenFile(path, mode, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, missingCheckpoint(dir)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	data, err := io.ReadAll(io.LimitReader(file, slotSize*slotCount+1))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(data) != slotSize*slotCount {
		faults = append(faults, fmt.Sprintf("it has %d bytes, not %d", len(data), slotSize*slotCount))
	}
	f := &checkpointFile{f: file}
	why := errEmptySlot
	for i := range slotCount {
		cp, err := readSlot(data, i, v, older)
		switch {
		case errors.Is(err, errEmptySlot):
		case err != nil:
			faults = append(faults, fmt.Sprintf("slot %d: %v", i, err))
			why = err
		case len(signed) > 0 && cp.Size < signed[0].Size:
			signed = append([]verify.Checkpoint{cp}, signed...)
		default:
			signed, f.next = append(signed, cp), (i+1)%slotCount
		}
	}
	var foreign *verify.FalseError
	switch {
	case len(signed) == 0 && errors.As(why, &foreign):
		return nil, nil, faults, fmt.Errorf("%s: %w", path, why)
	case len(signed) == 0:
		return nil, nil, faults, &DamageError{Where: path, Problem: "no slot holds a checkpoint, so that it is not known what was signed; restore the file from a backup", Err: why}
	case len(signed) == 1 && len(faults) == 0 && signed[0].Size > 1:
		faults = append(faults, "one slot is blank although both were written")
	}
	return f, signed, faults, nil
}

func readSlot(data []byte, i int, v note.Verifier, older []note.Verifier) (verify.Checkpoint, error) {
	low, high := min(i*slotSize, len(data)), min((i+1)*slotSize, len(data))
	signed, err := parseSlot(data[low:high])
	if err != nil {
		return verify.Checkpoint{}, err
	}
	return openSigned(signed, v, older)
}

// openSigned opens a checkpoint that v signed, or one of the older keys. The error
// is what v says of it.
func openSigned(signed []byte, v note.Verifier, older []note.Verifier) (verify.Checkpoint, error) {
	cp, err := verify.OpenCheckpoint(signed, v)
	for _, o := range older {
		if err == nil {
			break
		}
		if byOlder, olderErr := verify.OpenCheckpoint(signed, o); olderErr == nil {
			return byOlder, nil
		}
	}
	return cp, err
}

// missingCheckpoint tells a directory without a ledger from one that lost its
// checkpoint file.
func missingCheckpoint(dir string) error {
	if _, err := os.Stat(unfinishedPath(dir)); err == nil {
		return fmt.Errorf("%s: %w", dir, ErrUnfinished)
	}
	if _, err := os.Stat(storePath(dir)); err == nil {
		return damage(checkpointPath(dir), "the file is missing beside a store: either making the ledger was interrupted, and %s can be removed, or the file was lost and has to come from a backup", storePath(dir))
	}
	return fmt.Errorf("%s: %w", dir, ErrNoLedger)
}

// write makes signed the newest checkpoint. When it returns nil that is
// durable; after an error the checkpoint before it still is.
func (c *checkpointFile) write(signed []byte) error {
	slot, err := formatSlot(signed)
	if err != nil {
		return err
	}
	if _, err := c.f.WriteAt(slot, int64(c.next*slotSize)); err != nil {
		return fmt.Errorf("writing slot %d of %s: %w", c.next, c.f.Name(), err)
	}
	if err := disk.SyncData(c.f); err != nil {
		return fmt.Errorf("syncing %s: %w", c.f.Name(), err)
	}
	c.next = (c.next + 1) % slotCount
	return nil
}

func (c *checkpointFile) Close() error { return c.f.Close() }
