package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"google.golang.org/protobuf/proto"

	"github.com/retrace-ledger/retrace/ledger/internal/disk"
)

// When Badger cannot write or sync its manifest, it takes back in memory what
// the manifest may say already on disk: it removes the new tables that a change
// set names, keeps those that the set says are gone, and tries again under other
// numbers. Such a manifest opens no more, or worse, has Badger remove what it
// still needs. So the failure is noted in a file beside the manifest, and before
// the store is opened again what Badger took back is taken back there too.
//
// Badger removes every table that its manifest does not name, so nothing is
// taken back that is not known to have been: where the manifest says anything
// else than what such a failure leaves behind, the store is refused and left as
// it is. The manifest from before is not kept: what it said more than the new
// one are the numbers of tables that are not there.

// unsyncedName is how the name of the file begins that says that the manifest
// was not written or not synced. It goes on with the length of what the manifest
// held when the store was opened, which no failure since has touched. The file
// is empty, so that it can be made where the disk is full.
const unsyncedName = "manifest-unsynced."

// noteUnsynced makes that file. It is the best that can be done at that moment:
// without it a store may not open, and is never read as holding less.
func noteUnsynced(dir string, settled int64) error {
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(unsyncedName, settled)), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), disk.SyncDir(dir))
}

// takeBackUnsynced makes the manifest of a store, which was not written or not
// synced, say what Badger went on with.
func takeBackUnsynced(dir string) error {
	notes, err := filepath.Glob(filepath.Join(dir, unsyncedName+"*"))
	if err != nil || len(notes) == 0 {
		return err
	}
	var settled int64
	if _, err := fmt.Sscanf(filepath.Base(notes[0]), unsyncedName+"%d", &settled); err != nil || len(notes) > 1 {
		return fmt.Errorf("%q: not the one note of a manifest that was not synced", notes)
	}
	path := filepath.Join(dir, badger.ManifestFilename)
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sets, err := changeSets(raw, settled)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	tables := map[uint64]uint32{}
	for i, set := range sets {
		back, err := takenBack(dir, set, sets[i+1:])
		if err != nil {
			return fmt.Errorf("%s, change set at byte %d: %w", path, set.at, err)
		}
		if back && set.at < settled {
			return fmt.Errorf("%s, change set at byte %d: a table that it makes is missing, and it was synced", path, set.at)
		}
		if back {
			continue
		}
		for _, c := range set.Changes {
			if c.Op == pb.ManifestChange_CREATE {
				tables[c.Id] = c.Level
			} else {
				delete(tables, c.Id)
			}
		}
	}
	if err := writeManifest(dir, tables); err != nil {
		return err
	}
	return os.Remove(notes[0])
}

// takenBack says whether Badger took set back: whether a table that it makes is
// not there, and no later set removes it. It fails unless what the set stands
// for is somewhere else: that of a compaction in the tables that it was to
// remove, that of a flush in the log of a memtable or the table of a later
// flush.
func takenBack(dir string, set changeSet, later []changeSet) (bool, error) {
	var made, removed []uint64
	missing := 0
	for _, c := range set.Changes {
		if c.Op == pb.ManifestChange_DELETE {
			removed = append(removed, c.Id)
			continue
		}
		made = append(made, c.Id)
		if !kept(dir, c.Id, later) {
			missing++
		}
	}
	switch {
	case missing == 0:
		return false, nil
	case len(removed) > 0:
		for _, id := range removed {
			if !kept(dir, id, later) {
				return false, fmt.Errorf("tables %d are not all there, and neither is table %d, from which they were made", made, id)
			}
		}
		return true, nil
	case len(made) > 1: // a manifest written anew
		return false, fmt.Errorf("%d of tables %d are missing", missing, made)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return false, err
	}
	again := slices.ContainsFunc(later, func(l changeSet) bool {
		return len(l.Changes) == 1 && l.Changes[0].Op == pb.ManifestChange_CREATE && kept(dir, l.Changes[0].Id, later)
	})
	if len(logs) == 0 && !again {
		return false, fmt.Errorf("table %d is missing, and no log holds what it held", made[0])
	}
	return true, nil
}

// kept says whether a table is there, or went with a later set.
func kept(dir string, id uint64, later []changeSet) bool {
	if _, err := os.Lstat(table.NewFilename(id, dir)); !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return slices.ContainsFunc(later, func(l changeSet) bool {
		return slices.ContainsFunc(l.Changes, func(c *pb.ManifestChange) bool {
			return c.Op == pb.ManifestChange_DELETE && c.Id == id
		})
	})
}

// The manifest of Badger (manifest.go): a magic with a version, and change sets,
// each behind its length and its CRC-32C.
const (
	manifestMagic   = "Bdgr"
	manifestVersion = 8
	manifestHead    = 8 // bytes
)

// changeSet is a change set and where it begins.
type changeSet struct {
	*pb.ManifestChangeSet
	at int64
}

// changeSets reads a manifest. From byte settled on it passes over what is not a
// whole set: the beginning of one, whose writing failed. Badger goes on to write
// behind it.
func changeSets(raw []byte, settled int64) ([]changeSet, error) {
	if len(raw) < manifestHead || string(raw[:len(manifestMagic)]) != manifestMagic {
		return nil, errors.New("it is no manifest")
	}
	var sets []changeSet
	torn := false
	for at := int64(manifestHead); at < int64(len(raw)); {
		body, whole := record(raw[at:])
		if !whole && at < settled {
			return nil, fmt.Errorf("the change set at byte %d is damaged", at)
		}
		if !whole || torn && len(body) == 0 { // zeros are part of what is torn
			torn = true
			at++
			continue
		}
		torn = false
		set := new(pb.ManifestChangeSet)
		if err := proto.Unmarshal(body, set); err != nil {
			return nil, err
		}
		sets = append(sets, changeSet{set, at})
		at += recordHead + int64(len(body))
	}
	return sets, nil
}

// recordHead is what stands before a change set, in bytes.
const recordHead = 8

// record is the change set that raw begins with, if one does. Eight zeros are an
// empty one, which says nothing.
func record(raw []byte) (body []byte, whole bool) {
	if len(raw) < recordHead {
		return nil, false
	}
	n, sum := binary.BigEndian.Uint32(raw), binary.BigEndian.Uint32(raw[4:])
	if int64(n) > int64(len(raw)-recordHead) {
		return nil, false
	}
	body = raw[recordHead : recordHead+int64(n)]
	return body, crc32.Checksum(body, castagnoli) == sum
}

// settledLength is how much of a store's manifest is whole change sets.
func settledLength(dir string) (int64, error) {
	raw, err := os.ReadFile(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	at := int64(manifestHead)
	for at < int64(len(raw)) {
		body, whole := record(raw[at:])
		if !whole {
			break
		}
		at += recordHead + int64(len(body))
	}
	return at, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writeManifest makes the manifest of a store with these tables, by their
// levels.
func writeManifest(dir string, tables map[uint64]uint32) error {
	set := &pb.ManifestChangeSet{}
	for _, id := range slices.Sorted(maps.Keys(tables)) {
		set.Changes = append(set.Changes, &pb.ManifestChange{Id: id, Op: pb.ManifestChange_CREATE, Level: tables[id], EncryptionAlgo: pb.EncryptionAlgo_aes})
	}
	changes, err := proto.Marshal(set)
	if err != nil {
		return err
	}
	raw := append([]byte(manifestMagic), 0, 0, 0, manifestVersion)
	raw = binary.BigEndian.AppendUint32(raw, uint32(len(changes)))
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(changes, castagnoli))
	path := filepath.Join(dir, badger.ManifestFilename)
	f, err := os.CreateTemp(dir, "manifest-")
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, changes...))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return disk.SyncDir(dir)
}
