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

// When Badger cannot sync its manifest, it takes back in memory what the
// manifest says already on disk: it removes the new table that the manifest
// names, keeps the tables that the manifest says are gone, and tries again under
// another number. Such a manifest opens no more, or worse, has Badger remove
// what it still needs. So the failure is noted in a file beside the manifest,
// and before the store is opened again the change sets are taken back whose
// tables Badger took back.

// unsyncedName is the file that says that syncing the manifest failed.
const unsyncedName = "manifest-unsynced"

// noteUnsynced makes that file. It is the best that can be done at that moment:
// without it a store may not open, and is never read as holding less.
func noteUnsynced(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, unsyncedName), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), disk.SyncDir(dir))
}

// takeBackUnsynced makes the manifest of a store, whose sync failed, say what
// Badger went on with.
func takeBackUnsynced(dir string) error {
	note := filepath.Join(dir, unsyncedName)
	if _, err := os.Lstat(note); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	path := filepath.Join(dir, badger.ManifestFilename)
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sets, err := changeSets(raw)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	tables := map[uint64]uint32{}
	for i, set := range sets {
		if takenBack(dir, set, sets[i+1:]) {
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
	return os.Remove(note)
}

// takenBack says whether set makes a table that is not there and that no later
// set removes.
func takenBack(dir string, set *pb.ManifestChangeSet, later []*pb.ManifestChangeSet) bool {
	return slices.ContainsFunc(set.Changes, func(c *pb.ManifestChange) bool {
		if c.Op != pb.ManifestChange_CREATE {
			return false
		}
		if _, err := os.Lstat(table.NewFilename(c.Id, dir)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		return !slices.ContainsFunc(later, func(l *pb.ManifestChangeSet) bool {
			return slices.ContainsFunc(l.Changes, func(o *pb.ManifestChange) bool {
				return o.Op == pb.ManifestChange_DELETE && o.Id == c.Id
			})
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

// changeSets reads a manifest up to the first set that is not whole, which was
// being written when the process ended.
func changeSets(raw []byte) ([]*pb.ManifestChangeSet, error) {
	if len(raw) < manifestHead || string(raw[:len(manifestMagic)]) != manifestMagic {
		return nil, errors.New("it is no manifest")
	}
	var sets []*pb.ManifestChangeSet
	for rest := raw[manifestHead:]; len(rest) >= 8; {
		n, sum := binary.BigEndian.Uint32(rest), binary.BigEndian.Uint32(rest[4:])
		rest = rest[8:]
		if int64(n) > int64(len(rest)) || crc32.Checksum(rest[:n], castagnoli) != sum {
			break
		}
		set := new(pb.ManifestChangeSet)
		if err := proto.Unmarshal(rest[:n], set); err != nil {
			return nil, err
		}
		sets, rest = append(sets, set), rest[n:]
	}
	return sets, nil
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
