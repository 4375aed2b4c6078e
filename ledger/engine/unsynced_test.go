package engine_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4/pb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/retrace-ledger/retrace/ledger/engine"
)

// unsyncedStore is a store with two tables, each with a key of its own, and
// what its manifest is to say.
type unsyncedStore struct {
	t   *testing.T
	dir string
}

// TestOpenAfterUnsyncedManifest opens stores whose manifest says what Badger
// took back when it could not write or sync it. Table 77 never is there.
func TestOpenAfterUnsyncedManifest(t *testing.T) {
	for name, leave := range map[string]func(s unsyncedStore) (settled int){
		"flush": func(s unsyncedStore) int {
			s.log()
			return s.manifest(2, sets(1, 2, 77)...)
		},
		"flush, and again": func(s unsyncedStore) int { return s.manifest(1, sets(1, 77, 2)...) },
		"flush of a new store, and again": func(s unsyncedStore) int {
			s.manifest(0, sets(77, 1, 2)...)
			return 0
		},
		"compaction": func(s unsyncedStore) int {
			return s.manifest(2, append(sets(1, 2), record(create(77, 6), remove(1)))...)
		},
		"compaction, and again": func(s unsyncedStore) int {
			s.rename(1, 3)
			return s.manifest(1, append(sets(1), record(create(77, 6), remove(1)), record(create(3, 6), remove(1)), record(create(2, 0)))...)
		},
		"half a compaction": func(s unsyncedStore) int { // killed while removing what it made
			s.write("000003.sst", s.read("000001.sst"))
			return s.manifest(2, append(sets(1, 2), record(create(77, 6), create(3, 6), remove(1)))...)
		},
		"half a record": func(s unsyncedStore) int {
			s.log()
			return s.manifest(2, append(sets(1, 2), sets(77)[0][:10])...)
		},
		"half a record, and again": func(s unsyncedStore) int {
			return s.manifest(1, sets(1)[0], sets(2)[0][:10], sets(2)[0])
		},
		"half a long record, and again": func(s unsyncedStore) int { // longer than what follows
			var long []*pb.ManifestChange
			for id := range uint64(50) {
				long = append(long, create(100+id, 6))
			}
			return s.manifest(1, sets(1)[0], record(long...)[:40], sets(2)[0])
		},
		"half a record that ends in zeros, and again": func(s unsyncedStore) int {
			return s.manifest(1, sets(1)[0], append([]byte{0, 0, 1, 44, 9}, make([]byte, 6)...), sets(2)[0])
		},
		"rename of a manifest written anew": func(s unsyncedStore) int {
			s.write("MANIFEST-REWRITE", []byte("Bdgr\x00\x00\x00\x08"))
			return s.manifest(2, sets(1, 2)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newUnsyncedStore(t)
			settled := leave(s)
			note := s.note(settled)
			before := digests(t, s.dir)
			for i, open := range []func(string) (engine.Engine, error){engine.InspectBadger, engine.OpenBadger, engine.OpenBadger} {
				e, err := open(s.dir)
				if err != nil {
					t.Fatal(err)
				}
				s.check(e)
				if err := e.Close(); err != nil {
					t.Error(err)
				}
				if i == 0 {
					if diff := cmp.Diff(before, digests(t, s.dir)); diff != "" {
						t.Errorf("inspecting changed the store: %s", diff)
					}
				}
			}
			if _, err := os.Lstat(note); err == nil {
				t.Error("the note is still there")
			}
		})
	}
}

// TestRefuseManifest opens stores whose manifest says what no failed sync
// leaves behind, or that nobody noted. They do not open, and lose no table.
func TestRefuseManifest(t *testing.T) {
	for name, c := range map[string]struct {
		leave func(s unsyncedStore) (settled int)
		want  string
	}{
		"nothing noted": {func(s unsyncedStore) int {
			s.log()
			s.manifest(2, sets(1, 2, 77)...)
			return -1
		}, "file does not exist for table 77"},
		"synced": {func(s unsyncedStore) int {
			s.log()
			return s.manifest(3, sets(1, 2, 77)...)
		}, "was synced"},
		"flush without a log": {func(s unsyncedStore) int { return s.manifest(2, sets(1, 2, 77)...) }, "no log holds"},
		"compaction whose tables are gone": {func(s unsyncedStore) int {
			return s.manifest(2, append(sets(1, 2), record(create(77, 6), remove(79)))...)
		}, "neither is table 79"},
		"written anew": {func(s unsyncedStore) int {
			s.log()
			s.manifest(0, record(create(1, 0), create(2, 0), create(77, 0)))
			return 0
		}, "1 of tables [1 2 77]"},
		"written anew, synced": {func(s unsyncedStore) int {
			s.log()
			return s.manifest(1, record(create(1, 0), create(2, 0), create(77, 0)))
		}, "1 of tables [1 2 77]"},
		"damage to what was synced": {func(s unsyncedStore) int {
			damaged := sets(1)[0]
			damaged[len(damaged)-1] ^= 1
			return s.manifest(2, damaged, sets(2)[0])
		}, "damaged"},
		"two notes": {func(s unsyncedStore) int {
			s.note(7)
			return s.manifest(2, sets(1, 2)...)
		}, "not the one note"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newUnsyncedStore(t)
			if settled := c.leave(s); settled >= 0 {
				s.note(settled)
			}
			before := digests(t, s.dir)
			for _, open := range []func(string) (engine.Engine, error){engine.InspectBadger, engine.OpenBadger} {
				e, err := open(s.dir)
				if err == nil {
					e.Close()
					t.Fatal("it opens")
				}
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("open: %v, want %q", err, c.want)
				}
			}
			after := digests(t, s.dir)
			maps.DeleteFunc(after, func(name string, _ [32]byte) bool { return before[name] == [32]byte{} }) // an empty value log
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("opening changed the store: %s", diff)
			}
		})
	}
}

func newUnsyncedStore(t *testing.T) unsyncedStore {
	t.Helper()
	s := unsyncedStore{t, t.TempDir()}
	for key := range 2 {
		e, err := engine.OpenBadger(s.dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Commit([]engine.Put{{Key: []byte{byte(key)}, Value: unsyncedValue}}); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil { // flushes a table
			t.Fatal(err)
		}
	}
	return s
}

var unsyncedValue = bytes.Repeat([]byte("v"), 1000)

// check reads the key of each table.
func (s unsyncedStore) check(e engine.Engine) {
	s.t.Helper()
	for key := range 2 {
		err := e.View(func(snap engine.Snapshot) error {
			return snap.Get([]byte{byte(key)}, func(v []byte) error {
				if !bytes.Equal(v, unsyncedValue) {
					return fmt.Errorf("it is %d other bytes", len(v))
				}
				return nil
			})
		})
		if err != nil {
			s.t.Errorf("reading key %d: %v", key, err)
		}
	}
}

// log puts the log of a memtable into the store, as of a process that was
// killed.
func (s unsyncedStore) log() {
	s.t.Helper()
	dir := s.t.TempDir()
	e, err := engine.OpenBadger(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer e.Close()
	if err := e.Commit([]engine.Put{{Key: []byte("logged"), Value: unsyncedValue}}); err != nil {
		s.t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(logs) != 1 {
		s.t.Fatalf("logs %q, %v", logs, err)
	}
	raw, err := os.ReadFile(logs[0])
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(filepath.Base(logs[0]), bytes.TrimRight(raw, "\x00"))
}

// manifest writes records, and is the length of the first n with what is before
// them.
func (s unsyncedStore) manifest(n int, records ...[]byte) int {
	s.t.Helper()
	raw := []byte("Bdgr\x00\x00\x00\x08")
	settled := 0
	for i, r := range append(records, nil) {
		if i == n {
			settled = len(raw)
		}
		raw = append(raw, r...)
	}
	s.write("MANIFEST", raw)
	return settled
}

func (s unsyncedStore) note(settled int) string {
	s.t.Helper()
	name := fmt.Sprint("manifest-unsynced.", settled)
	s.write(name, nil)
	return filepath.Join(s.dir, name)
}

func (s unsyncedStore) write(name string, raw []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), raw, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s unsyncedStore) read(name string) []byte {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

func (s unsyncedStore) rename(from, to int) {
	s.t.Helper()
	if err := os.Rename(filepath.Join(s.dir, fmt.Sprintf("%06d.sst", from)), filepath.Join(s.dir, fmt.Sprintf("%06d.sst", to))); err != nil {
		s.t.Fatal(err)
	}
}

// sets are the records of flushes of these tables.
func sets(ids ...uint64) [][]byte {
	var all [][]byte
	for _, id := range ids {
		all = append(all, record(create(id, 0)))
	}
	return all
}

func create(id uint64, level uint32) *pb.ManifestChange {
	return &pb.ManifestChange{Id: id, Op: pb.ManifestChange_CREATE, Level: level, EncryptionAlgo: pb.EncryptionAlgo_aes}
}

func remove(id uint64) *pb.ManifestChange {
	return &pb.ManifestChange{Id: id, Op: pb.ManifestChange_DELETE}
}

// record is a change set as it is in a manifest.
func record(changes ...*pb.ManifestChange) []byte {
	set, err := proto.Marshal(&pb.ManifestChangeSet{Changes: changes})
	if err != nil {
		panic(err)
	}
	raw := binary.BigEndian.AppendUint32(nil, uint32(len(set)))
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(set, crc32.MakeTable(crc32.Castagnoli)))
	return append(raw, set...)
}
