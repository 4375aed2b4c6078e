package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/verify"
)

// open opens the log's newest checkpoint. Where another key than the one that was
// given signed it, or signed it too, a rotation is looked for that leads on to
// that: the first checkpoint over a rotation carries both signatures. Then the
// vkey in force is returned, and what is stored may be signed by either.
func (m *mirroring) open(raw []byte) (vkey string, err error) {
	m.target, err = verify.OpenCheckpoint(raw, m.key)
	var notSigned *verify.FalseError
	if err != nil && !errors.As(err, &notSigned) || err == nil && signatures(raw, m.key.Name()) < 2 {
		return "", err
	}
	chain, chainErr := m.rotated(raw)
	if chainErr != nil {
		return "", errors.Join(err, fmt.Errorf("looking for a rotation of its key: %w", chainErr))
	}
	if chain == nil {
		return "", err
	}
	target, openErr := verify.OpenCheckpoint(raw, chain.Log())
	if openErr != nil {
		return "", errors.Join(err, fmt.Errorf("by the key that a rotation put into force: %w", openErr))
	}
	m.target, m.older, m.key = target, []note.Verifier{m.key}, chain.Log()
	logs := chain.Logs()
	return logs[len(logs)-1].VKey, nil
}

// signatures is how many lines of signatures a note has under a name.
func signatures(raw []byte, name string) int { return bytes.Count(raw, []byte("\n— "+name+" ")) }

// rotated is the chain of the log's keys as the copy and, beyond it, the log say:
// from the genesis, which the copy has, each key signed by the one before. It is
// nil where no rotation leads on from the key given, or nothing is copied yet.
// Nothing else of what the log says is believed here: all of it is read again
// under the new key.
func (m *mirroring) rotated(raw []byte) (*verify.Chain, error) {
	if _, err := os.Stat(storePath(m.dir)); err != nil {
		return nil, nil
	}
	chain, size, err := m.copiedChain()
	if err != nil || chain == nil || !chain.Has(m.key) {
		return nil, err
	}
	to, err := statedSize(raw)
	if err != nil {
		return nil, err
	}
	for e, err := range m.log.Entries(m.ctx, size, max(size, to)) {
		if err != nil {
			return nil, err
		}
		next, err := chain.Follow(e)
		if err != nil {
			return nil, err
		}
		chain = next
	}
	if chain.Log().KeyHash() == m.key.KeyHash() {
		return nil, nil
	}
	return chain, nil
}

// copiedChain is the chain of keys that the copy has, and how many entries.
func (m *mirroring) copiedChain() (chain *verify.Chain, size int64, err error) {
	e, err := engine.OpenBadger(storePath(m.dir))
	if err != nil {
		return nil, 0, cannotOpen(storePath(m.dir), err)
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	recv := newReceiver(m.ctx, m.dir, e, m.key)
	err = e.View(func(s engine.Snapshot) (err error) {
		if size, err = storedEntries(s); err != nil || size == 0 {
			return err
		}
		return recv.resumeGenesis(s)
	})
	return recv.genesis.chain, size, err
}

// statedSize is the second line of a checkpoint (C2SP tlog-checkpoint), which
// nobody's signature vouches for yet.
func statedSize(raw []byte) (int64, error) {
	lines := bytes.SplitN(raw, []byte("\n"), 3)
	if len(lines) < 3 {
		return 0, errors.New("it is no checkpoint")
	}
	return strconv.ParseInt(string(lines[1]), 10, 64)
}
