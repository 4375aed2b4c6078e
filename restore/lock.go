package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/retrace-ledger/retrace/schema"
)

// States of a restored place.
const (
	Complete   = "COMPLETE"
	Incomplete = "INCOMPLETE"
)

// Lock is what retrace.lock.json holds: what a folder was laid out from, and
// whether that is all.
type Lock struct {
	Version    int    `json:"version"`
	State      string `json:"state"` // COMPLETE or INCOMPLETE
	PlanDigest string `json:"planDigest"`
	// NeededOnly says that only what reproducing needs was laid out.
	NeededOnly bool       `json:"neededOnly,omitzero"`
	Items      []LockItem `json:"items,omitempty"`
	// Trees are the retraceTree1 digests, in hex, of the steps' working roots
	// as they were laid out, by place. The root's own .git is left out.
	Trees map[string]string `json:"trees,omitempty"`
	Plan  *Plan             `json:"plan"`
}

// LockItem is one thing that was to be laid out.
type LockItem struct {
	Place   string     `json:"place,omitempty"`
	Key     schema.Key `json:"key"`
	Problem string     `json:"problem,omitempty"` // why it is not there, or not right; empty for one that is
}

// ReadLock reads the lock of the restored folder dir. The error is
// fs.ErrNotExist where there is none.
func ReadLock(dir string) (*Lock, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	defer root.Close()
	return readLock(root)
}

func readLock(root *os.Root) (*Lock, error) {
	f, err := root.Open(lockName)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", filepath.Join(root.Name(), lockName), err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 2*MaxPlan+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	l, err := ParseLock(raw)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return l, nil
}

// ParseLock decodes and checks a lock.
func ParseLock(raw []byte) (*Lock, error) {
	if len(raw) > 2*MaxPlan {
		return nil, fmt.Errorf("it is more than %d bytes", 2*MaxPlan)
	}
	l := new(Lock)
	if err := json.Unmarshal(raw, l, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	switch {
	case l.Version != PlanVersion:
		return nil, fmt.Errorf("version %d; this program reads %d", l.Version, PlanVersion)
	case l.State != Complete && l.State != Incomplete:
		return nil, fmt.Errorf("state %q is neither %s nor %s", l.State, Complete, Incomplete)
	case l.Plan == nil:
		return nil, errors.New("it holds no plan")
	}
	if err := l.Plan.check(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return l, nil
}

// write puts the lock in place, whole and durable.
func (l *Lock) write(root *os.Root) error {
	raw, err := json.Marshal(l, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("encoding %s: %w", lockName, err)
	}
	if err := writeFile(root, lockName, append(raw, '\n')); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Join(root.Name(), lockName), err)
	}
	return nil
}

// writeFile replaces a file of the restored place, whole and durable.
func writeFile(root *os.Root, name string, raw []byte) error {
	f, err := root.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(raw))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return root.Rename(name+".new", name)
}

func exists(root *os.Root, name string) (bool, error) {
	_, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
