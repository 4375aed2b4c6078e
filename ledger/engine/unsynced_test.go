package engine_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4/pb"
	"google.golang.org/protobuf/proto"

	"github.com/retrace-ledger/retrace/ledger/engine"
)

// TestOpenAfterUnsyncedManifest opens stores whose manifest says what Badger
// took back when it could not sync it: a table that was flushed, and a
// compaction of tables that are still there.
func TestOpenAfterUnsyncedManifest(t *testing.T) {
	value := bytes.Repeat([]byte("v"), 1000)
	for name, changes := range map[string][]*pb.ManifestChange{
		"flush": {{Id: 77, Op: pb.ManifestChange_CREATE, EncryptionAlgo: pb.EncryptionAlgo_aes}},
		"compaction": {
			{Id: 77, Op: pb.ManifestChange_CREATE, Level: 6, EncryptionAlgo: pb.EncryptionAlgo_aes},
			{Id: 1, Op: pb.ManifestChange_DELETE},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			e, err := engine.OpenBadger(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Commit([]engine.Put{{Key: []byte("key"), Value: value}}); err != nil {
				t.Fatal(err)
			}
			if err := e.Close(); err != nil { // flushes table 1
				t.Fatal(err)
			}
			appendChanges(t, filepath.Join(dir, "MANIFEST"), changes)
			if e, err := engine.InspectBadger(dir); err == nil {
				e.Close()
				t.Fatal("a manifest that names a table which is not there opens, and nothing says why it may")
			}
			if err := os.WriteFile(filepath.Join(dir, "manifest-unsynced"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			before := digests(t, dir)
			for _, open := range []func(string) (engine.Engine, error){engine.InspectBadger, engine.OpenBadger, engine.OpenBadger} {
				e, err := open(dir)
				if err != nil {
					t.Fatal(err)
				}
				err = e.View(func(s engine.Snapshot) error {
					return s.Get([]byte("key"), func(v []byte) error {
						if !bytes.Equal(v, value) {
							return fmt.Errorf("it is %d other bytes", len(v))
						}
						return nil
					})
				})
				if err != nil {
					t.Errorf("reading the key: %v", err)
				}
				if err := e.Close(); err != nil {
					t.Error(err)
				}
				if before != nil && fmt.Sprint(before) != fmt.Sprint(digests(t, dir)) {
					t.Error("inspecting changed the store")
				}
				before = nil
			}
			if _, err := os.Lstat(filepath.Join(dir, "manifest-unsynced")); err == nil {
				t.Error("the note is still there")
			}
		})
	}
}

func appendChanges(t *testing.T, path string, changes []*pb.ManifestChange) {
	t.Helper()
	set, err := proto.Marshal(&pb.ManifestChangeSet{Changes: changes})
	if err != nil {
		t.Fatal(err)
	}
	raw := binary.BigEndian.AppendUint32(nil, uint32(len(set)))
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(set, crc32.MakeTable(crc32.Castagnoli)))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(append(raw, set...)); err != nil {
		t.Fatal(err)
	}
}
