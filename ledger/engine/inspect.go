package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"

	"github.com/retrace-ledger/retrace/ledger/internal/disk"
)

// InspectBadger opens the Badger store in dir for reading, as it is, and
// changes nothing in dir, whatever the store is like.
//
// Badger's own opening recovers: it cuts its logs off before the first record
// that it cannot read, flushes what is left of them, and removes tables that
// its manifest does not name. On a damaged store that destroys what a repair
// would need. So it is let loose on a directory of links and copies, which is
// removed on Close.
func InspectBadger(dir string) (Engine, error) {
	scratch, err := os.MkdirTemp("", "retrace-inspect-")
	if err != nil {
		return nil, err
	}
	e, err := inspect(dir, scratch)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	return &inspected{e, scratch}, nil
}

func inspect(dir, scratch string) (*badgerEngine, error) {
	closed, err := mirror(dir, scratch)
	if err != nil {
		return nil, fmt.Errorf("looking at the store in %s: %w", dir, err)
	}
	opt := badgerOptions(scratch).WithBlockCacheSize(0).WithNumCompactors(0)
	if closed {
		return openBadger(dir, opt.WithReadOnly(true))
	}
	if err := shieldValueLog(scratch); err != nil {
		return nil, err
	}
	return openBadger(dir, opt)
}

// inspected is an engine on a mirror of a store.
type inspected struct {
	Engine
	scratch string
}

func (i *inspected) Commit([]Put) error { return errors.New("this store was opened to be read") }

func (i *inspected) Close() error {
	return errors.Join(i.Engine.Close(), os.RemoveAll(i.scratch))
}

// linkAbove is the size in bytes above which a value log is linked and not
// copied. Badger removes and extends logs that hold nothing.
const linkAbove = 64 << 10

// mirror fills scratch with the files of a store. Large files that are only
// read are linked; those that recovery writes to are copied. It reports
// whether the store was closed, so that there is nothing to recover.
func mirror(dir, scratch string) (closed bool, err error) {
	logs, manifest := false, false
	abs, err := filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	files, err := os.ReadDir(abs)
	if err != nil {
		return false, err
	}
	for _, f := range files {
		from, to := filepath.Join(abs, f.Name()), filepath.Join(scratch, f.Name())
		info, err := f.Info()
		if err != nil {
			return false, err
		}
		kind := filepath.Ext(f.Name())
		empty := (kind == ".mem" || kind == ".vlog") && info.Size() < logHeader // see dropEmptyLogs
		logs = logs || kind == ".mem" && !empty
		manifest = manifest || f.Name() == badger.ManifestFilename
		switch {
		case f.Name() == "LOCK" || f.Name() == "DISCARD": // not data
		case empty:
		case kind == ".sst", kind == ".vlog" && info.Size() > linkAbove:
			err = os.Symlink(from, to)
		default:
			err = disk.Copy(from, to)
		}
		if err != nil {
			return false, err
		}
	}
	return manifest && !logs, nil
}

// checkTables refuses a table whose footer points outside of it. Badger trusts
// footers, in goroutines of its own, where such a table ends the process.
//
// A table that the manifest does not name is passed over: its making was
// interrupted, Badger removes it, and what it was made from is still there.
func checkTables(dir string) error {
	manifest, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // then Badger makes a new store, or refuses
	}
	if err != nil {
		return err
	}
	defer manifest.Close()
	named, _, err := badger.ReplayManifestFile(manifest, 0, badgerOptions(dir))
	if err != nil {
		return nil // Badger refuses it, and says why
	}
	for id := range named.Tables {
		path := table.NewFilename(id, dir)
		err := checkFooter(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // Badger refuses that
		}
		if err != nil {
			return fmt.Errorf("reading the table %s: %w", path, err)
		}
	}
	return nil
}

// checkFooter reads, from the end of a table, the length of the checksum, the
// checksum, and the length of the index before it.
func checkFooter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	left := info.Size()
	for _, part := range []string{"checksum", "index"} {
		var length [4]byte
		if left -= int64(len(length)); left < 0 {
			return fmt.Errorf("%d bytes are too few for a table", info.Size())
		}
		if _, err := f.ReadAt(length[:], left); err != nil {
			return err
		}
		if left -= int64(binary.BigEndian.Uint32(length[:])); left < 0 {
			return fmt.Errorf("its %s begins before the file", part)
		}
	}
	return nil
}

// logHeader is what a value log begins with, in bytes: the number of the
// encryption key, none, and its nonce.
const logHeader = 20

// shieldValueLog adds an empty value log behind the newest one. Badger reads
// the newest through when it opens and cuts it off at the first record that it
// cannot read, with everything behind that. Nothing asks for that: a value is
// found by its place, and the place is committed after the value.
func shieldValueLog(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.vlog"))
	if err != nil || len(logs) == 0 {
		return err
	}
	newest := 0
	for _, path := range logs {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(path), "%d.vlog", &n); err != nil {
			return fmt.Errorf("%s: not the name of a value log", path)
		}
		newest = max(newest, n)
	}
	shield := filepath.Join(dir, fmt.Sprintf("%06d.vlog", newest+1))
	if err := os.WriteFile(shield, make([]byte, logHeader), 0o600); err != nil {
		return errors.Join(err, os.Remove(shield))
	}
	return nil
}

// dropEmptyLogs removes the logs that are shorter than their header. They hold
// nothing: a crash, a full disk or a failed call left them behind when they
// were made, and Badger opens no store with one of them, however often it is
// asked.
func dropEmptyLogs(dir string) error {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		logs, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range logs {
			info, err := os.Stat(path)
			if err == nil && info.Size() < logHeader {
				err = os.Remove(path)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
