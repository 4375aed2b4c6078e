package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/internal/disk"
)

// Import makes a ledger in dir, which has to be empty or not to exist, from a
// backup. Every body is compared with its commitment, and the tree over all of
// them with the signed checkpoint, before the checkpoint file is made: until
// then dir holds nothing that opens, and every attempt says ErrUnfinished. An
// Import that was interrupted can be begun again. One that fails removes what
// it made.
func Import(ctx context.Context, r io.Reader, dir string, opts *CopyOptions) (info BackupInfo, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("importing a backup into %s: %w", dir, err)
		}
	}()
	if opts == nil {
		opts = &CopyOptions{}
	}
	b, err := openBackup(r, opts.Key) // before anything is made
	if err != nil {
		return info, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return info, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	begun, err := claim(dir)
	if err != nil {
		return info, err
	}
	i := &importing{backupReader: b, dir: dir, opts: opts, begun: begun}
	if err := i.run(ctx); err != nil {
		return info, errors.Join(err, i.undo())
	}
	return BackupInfo{Checkpoint: b.checkpoint, Keys: b.head.Keys, Withheld: b.withheld}, nil
}

// claim marks dir, in which nothing is but what an interrupted Import left, as
// being filled. What that left of a store goes. It reports whether there was
// one.
func claim(dir string) (begun bool, err error) {
	_, err = os.Stat(unfinishedPath(dir))
	begun = err == nil
	files, err := os.ReadDir(dir)
	if err != nil {
		return begun, err
	}
	for _, f := range files {
		name := f.Name()
		switch {
		case name == "lock":
		case begun && name != filepath.Base(checkpointPath(dir)):
		default:
			return begun, fmt.Errorf("%w: %s holds %s already, and a backup goes into an empty directory", ErrExists, dir, name)
		}
	}
	if err := begin(dir); err != nil {
		return begun, err
	}
	return begun, os.RemoveAll(storePath(dir))
}

// importing is one Import under way.
type importing struct {
	*backupReader
	dir   string
	opts  *CopyOptions
	begun bool     // by another that was interrupted and left files
	made  []string // paths of the files that were not there before
}

// undo removes what a failed Import made.
func (i *importing) undo() error {
	err := os.RemoveAll(storePath(i.dir))
	if !i.begun {
		i.made = append(i.made, unfinishedPath(i.dir))
	}
	for _, path := range i.made {
		if rmErr := os.Remove(path); !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}

func (i *importing) run(ctx context.Context) (err error) {
	for name, data := range map[string][]byte{".gitignore": []byte("*\n"), vkeyMember: i.vkey, secretMember: i.secret} {
		if data == nil {
			continue
		}
		if err := i.keep(name, data); err != nil {
			return err
		}
	}
	if err := os.Mkdir(storePath(i.dir), 0o700); err != nil {
		return err
	}
	e, err := engine.OpenBadger(storePath(i.dir))
	if err != nil {
		return err
	}
	recv := newReceiver(ctx, i.dir, e, i.verifier)
	recv.secret = i.secret
	if err := errors.Join(i.receive(recv), e.Close()); err != nil {
		return err
	}
	if err := disk.SyncDir(storePath(i.dir)); err != nil {
		return err
	}
	return finish(i.dir, i.checkpoint)
}

// receive takes all members into the store.
func (i *importing) receive(recv *receiver) error {
	for {
		name, data, err := i.next()
		if err != nil {
			return err
		}
		switch stage, _ := stageOf(name); stages[stage] {
		case endMember:
			return i.publish(recv)
		case cursorMember:
			key, sealed, err := parseCursor(data)
			if err != nil {
				return err
			}
			recv.put(key, sealed)
			if err := recv.flush(); err != nil { // one can be as large as a transaction
				return err
			}
		case entriesMember:
			if err := recordsOf(name, data, recv.add); err != nil {
				return err
			}
			i.opts.report(i.size, i.checkpoint.Size)
		case duplicatesMember:
			if err := recv.putDuplicates(data); err != nil {
				return err
			}
		default: // keys, and cosigned
			if err := i.keep(name, data); err != nil {
				return err
			}
		}
	}
}

// publish ends an import: everything was read, and nothing may be left over.
func (i *importing) publish(recv *receiver) error {
	if len(recv.orphans) > 0 {
		lost := make([]int64, 0, len(recv.orphans))
		for index := range recv.orphans {
			lost = append(lost, index)
		}
		return damage(entryName(slices.Min(lost)), "it has no body, and no entry of the backup says that it was erased")
	}
	if i.head.Mirror {
		recv.put([]byte(targetKey), formatState(state{recordedAt: recv.last, note: i.checkpoint.Note}))
	}
	return recv.publish(i.checkpoint)
}

// putDuplicates takes what a backup says about duplicates of erased entries.
func (r *receiver) putDuplicates(data []byte) error {
	if len(data)%duplicateSize != 0 {
		return badBackup("%d bytes of duplicates are not a whole number of them", len(data))
	}
	if r.secret == nil {
		return nil
	}
	for pair := range slices.Chunk(data, duplicateSize) {
		at := len(pair) - 8
		r.put(append([]byte(dedupPrefix), pair[:at]...), pair[at:])
	}
	return r.flush()
}

// keep writes a file of the backup. One that is there with the same content,
// from an interrupted Import, is good.
func (i *importing) keep(name string, data []byte) error {
	path := filepath.Join(i.dir, name)
	if have, err := os.ReadFile(path); err == nil {
		if string(have) == string(data) {
			return nil
		}
		return fmt.Errorf("%w: %s, with other content than in the backup", ErrExists, path)
	}
	mode := fs.FileMode(0o600)
	if strings.HasSuffix(name, ".pub") || name == vkeyMember || name == ".gitignore" || name == cosignedMember {
		mode = 0o644
	}
	i.made = append(i.made, path)
	return writeFile(path, data, mode)
}
