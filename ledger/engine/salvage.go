package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/retrace-ledger/retrace/ledger/internal/disk"
)

// SalvageBadger opens what is left of a Badger store that does not open any
// more: every table and write-ahead log of it that opens by itself, and the value
// logs. Keys and values can be missing, and older values of a key can come back
// in the place of newer ones; whoever reads them checks. Like InspectBadger it
// changes nothing in dir.
func SalvageBadger(dir string) (Engine, error) {
	scratch, err := os.MkdirTemp("", "retrace-salvage-")
	if err != nil {
		return nil, err
	}
	e, err := salvage(dir, scratch)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	return &inspected{e, scratch}, nil
}

func salvage(dir, scratch string) (*badgerEngine, error) {
	if _, err := mirror(dir, scratch); err != nil {
		return nil, fmt.Errorf("looking at the store in %s: %w", dir, err)
	}
	// Both are made anew: what they say is no part of any entry.
	for _, name := range []string{badger.ManifestFilename, badger.KeyRegistryFileName} {
		if err := os.RemoveAll(filepath.Join(scratch, name)); err != nil {
			return nil, err
		}
	}
	if err := repairValueLogs(scratch); err != nil {
		return nil, err
	}
	if err := shieldValueLog(scratch); err != nil {
		return nil, err
	}
	tables := map[uint64]uint32{} // all at level 0, where they may overlap
	for _, kind := range []string{"sst", "mem"} {
		files, err := filepath.Glob(filepath.Join(scratch, "*."+kind))
		if err != nil {
			return nil, err
		}
		for _, path := range files {
			var id uint64
			_, err := fmt.Sscanf(filepath.Base(path), "%d."+kind, &id)
			if err == nil {
				err = openAlone(path, kind, id)
			}
			switch {
			case err != nil:
				if err := os.Remove(path); err != nil {
					return nil, err
				}
			case kind == "sst":
				tables[id] = 0
			}
		}
	}
	if err := writeManifest(scratch, tables); err != nil {
		return nil, err
	}
	return openBadger(dir, salvageOptions(scratch))
}

// salvageOptions allow for any number of tables that are not sorted into
// levels.
func salvageOptions(dir string) badger.Options {
	const many = 1 << 20
	return badgerOptions(dir).WithBlockCacheSize(0).WithNumCompactors(0).WithNumLevelZeroTables(many).WithNumLevelZeroTablesStall(many + 1)
}

// openAlone fails unless a table or log opens as the only one of a store.
func openAlone(path, kind string, id uint64) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), "alone-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	from, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, filepath.Base(path))
	tables := map[uint64]uint32{}
	if kind == "sst" {
		tables[id] = 0
		err = os.Symlink(from, to)
	} else {
		err = disk.Copy(from, to)
	}
	if err != nil {
		return err
	}
	if err := writeManifest(dir, tables); err != nil {
		return err
	}
	e, err := openBadger(dir, salvageOptions(dir))
	if err != nil {
		return err
	}
	return e.Close()
}

// repairValueLogs gives each value log the header that it was begun with: the
// number of the encryption key, which is none.
func repairValueLogs(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.vlog"))
	if err != nil {
		return err
	}
	for _, path := range logs {
		header, err := readHeader(path)
		if err != nil {
			return err
		}
		if header == 0 {
			continue
		}
		from, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		repaired := path + ".repaired"
		if err := disk.Copy(from, repaired); err != nil {
			return err
		}
		f, err := os.OpenFile(repaired, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(make([]byte, 8), 0)
		if err := errors.Join(err, f.Close(), os.Rename(repaired, path)); err != nil {
			return err
		}
	}
	return nil
}

// readHeader is the number of the encryption key of a value log.
func readHeader(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var key [8]byte
	if _, err := f.ReadAt(key[:], 0); err != nil {
		return 0, nil // too short; shieldValueLog removes it
	}
	return binary.BigEndian.Uint64(key[:]), nil
}
