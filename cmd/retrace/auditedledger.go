package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
	"github.com/retrace-ledger/retrace/verify/replay"
)

// cosignedFile holds the newest checkpoint that witnesses cosigned.
const cosignedFile = "cosigned"

// auditedLedger is a ledger open for an audit: a directory, or what a server
// shows of one.
type auditedLedger struct {
	key     note.Verifier
	log     provingLog
	entries replay.Log
	dir     string         // "" behind a server elsewhere
	local   *ledger.Ledger // nil behind a server
	remote  *client.Client // nil for a directory that is open here
}

// provingLog is a bookLog that proves its own growth.
type provingLog interface {
	bookLog
	ProveConsistency(ctx context.Context, older, newer int64) ([]tlog.Hash, error)
}

// Close gives a directory free.
func (l *auditedLedger) Close() error {
	if l.local == nil {
		return nil
	}
	return l.local.Close()
}

// open opens what --ledger names.
func (o *ledgerAudit) open(ctx context.Context) (*auditedLedger, error) {
	if strings.HasPrefix(o.ledger, "http://") || strings.HasPrefix(o.ledger, "https://") {
		return o.openURL(ctx)
	}
	dir, err := filepath.Abs(o.ledger)
	if err != nil {
		return nil, err
	}
	l := &auditedLedger{dir: dir}
	if l.key, err = o.logKey(dir); err != nil {
		return nil, err
	}
	c, running, err := discover(ctx, dir)
	if err != nil {
		return nil, err
	}
	if running {
		fmt.Fprintf(os.Stderr, "retrace: reading through the server that holds %s\n", dir)
		return l, l.connect(ctx, c)
	}
	if l.local, err = openToAudit(ctx, dir, l.key); err != nil {
		return nil, err
	}
	l.log, l.entries = l.local, l.local
	return l, nil
}

func (o *ledgerAudit) openURL(ctx context.Context) (*auditedLedger, error) {
	if o.key == "" {
		return nil, &hinted{errors.New("there is no key to check with"), "name the log's public key with --key; who runs the server must not be the one to say which it is"}
	}
	l := &auditedLedger{}
	var err error
	if l.key, err = o.logKey(""); err != nil {
		return nil, err
	}
	c, err := client.New(o.ledger, os.Getenv("RETRACE_TOKEN"))
	if err != nil {
		return nil, err
	}
	return l, l.connect(ctx, c)
}

// logKey is the key as named, or the one in the ledger's own directory.
func (o *ledgerAudit) logKey(dir string) (note.Verifier, error) {
	key := o.key
	if key == "" {
		key = filepath.Join(dir, logVKeyFile)
		fmt.Fprintf(os.Stderr, "retrace: trusting the key in %s itself; --key names one that you have from elsewhere\n", dir)
	}
	text, err := os.ReadFile(key)
	switch {
	case err == nil:
	case dir != "" && o.key == "" && errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w in %s", errNoLedger, dir)
	case !strings.Contains(key, "+"):
		return nil, err
	default:
		text = []byte(key)
	}
	return verify.ParseLogKey(text, "")
}

func (l *auditedLedger) connect(ctx context.Context, c *client.Client) error {
	remote, err := c.Ledger(ctx)
	if err != nil {
		return err
	}
	l.remote, l.log, l.entries = c, remote, uncheckedLog{remote}
	return nil
}

// refresh says whether the ledger grew beyond size, and looks at it as it is
// now.
func (l *auditedLedger) refresh(ctx context.Context, size int64) (bool, error) {
	if l.remote == nil {
		return false, nil
	}
	err := l.connect(ctx, l.remote)
	return err == nil && l.log.Size() > size, err
}

// uncheckedLog leaves it to the replay to say what is wrong with an entry.
type uncheckedLog struct{ *client.Ledger }

// Entries implements replay.Log.
func (l uncheckedLog) Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error] {
	return l.Unchecked(ctx, from)
}

// openToAudit opens a directory for reading, also where its private keys are
// at hand, and waits for a short command that holds it.
func openToAudit(ctx context.Context, dir string, key note.Verifier) (*ledger.Ledger, error) {
	for deadline := time.Now().Add(lockWait); ; {
		l, err := ledger.OpenReadOnly(dir, key, nil)
		if !errors.Is(err, ledger.ErrLocked) || time.Now().After(deadline) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// quorum is the policy that a checkpoint has to meet; the zero value asks for
// nothing.
type quorum struct {
	policy torchwood.Policy
	text   string
}

// loadQuorum reads a C2SP policy file.
func loadQuorum(path string) (quorum, error) {
	if path == "" {
		return quorum{}, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return quorum{}, err
	}
	p, err := torchwood.ParsePolicy(text)
	if err != nil {
		return quorum{}, fmt.Errorf("%s: %w", path, err)
	}
	return quorum{p, string(text)}, nil
}

// check finds the newest checkpoint that meets the quorum, among the one that
// was replayed towards and the one that witnesses cosigned, and returns its
// size. That there is none is a finding, and so is a cosigned one that the log
// does not extend.
func (q quorum) check(ctx context.Context, l *auditedLedger, c verify.Checkpoint, r *replay.Replay) (int64, error) {
	if q.policy == nil {
		return 0, nil
	}
	why, err := q.meets(c.Note)
	if why == nil || err != nil {
		return c.Size, err
	}
	raw, err := os.ReadFile(filepath.Join(l.dir, cosignedFile))
	if l.dir == "" || errors.Is(err, fs.ErrNotExist) {
		r.Add(replay.Finding{Entry: -1, Kind: replay.KindQuorum, Problem: fmt.Sprintf("the checkpoint of size %d does not meet the policy: %v", c.Size, why)})
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	cosigned, err := verify.OpenCheckpoint(raw, l.key)
	if err != nil {
		return 0, err
	}
	if why, err = q.meets(raw); err != nil {
		return 0, err
	}
	if why != nil {
		r.Add(replay.Finding{Entry: -1, Kind: replay.KindQuorum, Problem: fmt.Sprintf("neither the checkpoint of size %d nor the cosigned one of size %d meets the policy: %v", c.Size, cosigned.Size, why)})
		return 0, nil
	}
	var proof []tlog.Hash
	if cosigned.Size < c.Size {
		if proof, err = l.log.ProveConsistency(ctx, cosigned.Size, c.Size); err != nil {
			return 0, err
		}
	}
	if err := verify.VerifyConsistency(cosigned, c, proof); err != nil {
		return 0, &replay.ForkError{Size: r.Size(), Old: cosigned.Note, New: c.Note, Err: err}
	}
	return cosigned.Size, nil
}

// meets says why a note does not meet the policy; the error, why that cannot be
// told.
func (q quorum) meets(text []byte) (why, err error) {
	_, _, err = torchwood.VerifyCheckpoint(text, q.policy)
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	if errors.As(err, &unverified) || errors.As(err, &invalid) {
		return err, nil
	}
	return nil, err
}
