package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
	"github.com/retrace-ledger/retrace/verify/replay"
)

// auditEvery is how much time passes between two states of an audit.
const auditEvery = 5 * time.Second

// ledgerAudit is what `retrace audit --ledger` is asked to do.
type ledgerAudit struct {
	ledger string // directory or URL
	key    string // of the log, a file or the verifier key itself
	policy string
	state  string
	fresh  bool
	out    string
	sign   string
}

// outcome is what an audit of a ledger came to.
type outcome struct {
	checkpoint  verify.Checkpoint
	report      replay.Report
	partial     error // why the rest could not be replayed; nil if all was
	notCompared string
	signer      string
}

// run audits the ledger and writes the signed verdict. What could not be
// checked has none.
func (o *ledgerAudit) run(cmd *cobra.Command, a *app) error {
	ctx := cmd.Context()
	at, err := o.open(ctx)
	if err != nil {
		return auditError(o.ledger, err)
	}
	defer at.Close()
	got, policy, err := o.audit(ctx, at)
	if err != nil {
		return auditError(o.ledger, err)
	}
	if got.partial != nil && got.report.OK() {
		return auditError(o.ledger, fmt.Errorf("%d of %d entries were replayed: %w", got.report.Size, got.checkpoint.Size, got.partial))
	}
	if o.out != "" {
		if got.signer, err = o.write(got, policy); err != nil {
			return cannot(err)
		}
	}
	return a.printAudit(cmd, o, got)
}

// auditError sorts why there is no verdict: because what is there contradicts
// what was signed, or because it could not be checked.
func auditError(where string, err error) error {
	var (
		no     *verify.FalseError
		fork   *replay.ForkError
		forked *ledger.ForkError
		damage *ledger.DamageError
	)
	err = fmt.Errorf("auditing %s: %w", where, err)
	if errors.As(err, &no) || errors.As(err, &fork) || errors.As(err, &forked) || errors.As(err, &damage) || errors.Is(err, ledger.ErrShort) {
		return isFalse(err)
	}
	return cannot(err)
}

// audit replays the ledger, checks the quorum and derives the index.
func (o *ledgerAudit) audit(ctx context.Context, at *auditedLedger) (outcome, replay.Policy, error) {
	var got outcome
	policy := replay.Policy{Key: fmt.Sprintf("%s+%08x", at.key.Name(), at.key.KeyHash()), Lineage: true}
	quorum, err := loadQuorum(o.policy)
	if err != nil {
		return got, policy, err
	}
	policy.Quorum = quorum.text
	statePath, err := o.statePath(policy.Key)
	if err != nil {
		return got, policy, err
	}
	r, err := o.resume(statePath, at)
	if err != nil {
		return got, policy, err
	}
	if got.checkpoint, got.partial, err = at.replay(ctx, r, statePath); err != nil {
		return got, policy, err
	}
	witnessed, err := quorum.check(ctx, at, got.checkpoint, r)
	if err != nil {
		return got, policy, err
	}
	if got.report, err = r.Report(); err != nil {
		return got, policy, err
	}
	var digest string
	if got.report.OK() && got.partial == nil { // an index is only as right as the entries it is made of
		if digest, got.notCompared, err = at.deriveLineage(ctx, r); err != nil {
			return got, policy, fmt.Errorf("deriving the lineage index: %w", err)
		}
		if got.report, err = r.Report(); err != nil {
			return got, policy, err
		}
	}
	got.report.Lineage, got.report.Witnessed = digest, witnessed
	return got, policy, nil
}

// statePath is where the state is kept: as named, or in this user's cache, one
// for each log key.
func (o *ledgerAudit) statePath(key string) (string, error) {
	if o.state != "" {
		return o.state, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a place for the state of the audit: %w; name one with --state", err)
	}
	dir := filepath.Join(base, "retrace", "audit")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.Join(dir, schema.BytesKey([]byte(key)).Hex()[:16]+".state"), nil
}

// resume goes on from the state of an earlier audit, if there is one.
func (o *ledgerAudit) resume(path string, at *auditedLedger) (*replay.Replay, error) {
	raw, err := os.ReadFile(path)
	if o.fresh || errors.Is(err, fs.ErrNotExist) {
		return replay.New(at.key), nil
	}
	if err != nil {
		return nil, err
	}
	r, err := replay.Resume(raw, at.key)
	if err != nil {
		// Not the ledger is wrong, but what is beside it.
		return nil, &hinted{fmt.Errorf("going on from %s: %v", path, err), "give another file with --state, or begin anew with --fresh"}
	}
	return r, nil
}

// replay reads the ledger up to its checkpoint, saving the state now and then.
// partial is why the ledger could not be read to its end although nothing
// false was found there.
func (l *auditedLedger) replay(ctx context.Context, r *replay.Replay, statePath string) (c verify.Checkpoint, partial, err error) {
	for {
		if c, err = verify.OpenCheckpoint(l.log.Checkpoint(), l.key); err != nil {
			return c, nil, err
		}
		prove := func(older, newer int64) ([]tlog.Hash, error) { return l.log.ProveConsistency(ctx, older, newer) }
		if err := r.Confirm(c, prove); err != nil {
			return c, nil, err
		}
		if partial, err = l.replayTo(ctx, r, c, statePath); err != nil || partial != nil || len(r.Unexplained()) == 0 {
			return c, partial, err
		}
		// What a server erased meanwhile is accounted for by newer entries.
		grown, err := l.refresh(ctx, c.Size)
		if err != nil || !grown {
			return c, nil, err
		}
	}
}

func (l *auditedLedger) replayTo(ctx context.Context, r *replay.Replay, c verify.Checkpoint, statePath string) (partial, err error) {
	bar := newProgress(c.Size, "replaying")
	defer bar.finish()
	var saved time.Time
	save := func() error {
		saved = time.Now()
		raw, err := r.State()
		if err != nil {
			return err
		}
		return writeWhole(statePath, raw, 0o600)
	}
	pause := func() error {
		bar.set(r.Size(), c.Size)
		if time.Since(saved) < auditEvery {
			return nil
		}
		return save()
	}
	for _, err := range r.Run(ctx, l.entries, c, pause) {
		if err == nil {
			continue // findings are in the report
		}
		var damage *ledger.DamageError
		var malformed *schema.FieldError
		if errors.As(err, &damage) || errors.As(err, &malformed) {
			r.Add(replay.Finding{Entry: r.Size(), Kind: replay.KindBody, Problem: err.Error()})
			continue
		}
		partial = err
	}
	if err := save(); err != nil {
		return partial, fmt.Errorf("storing how far the audit came: %w", err)
	}
	return partial, nil
}

// deriveLineage makes the index of the entries in a temporary directory and
// compares the ledger's own with it, where that can be looked at. It returns
// the digest of the index, and why the two could not be compared.
func (l *auditedLedger) deriveLineage(ctx context.Context, r *replay.Replay) (digest, notCompared string, err error) {
	tmp, err := os.MkdirTemp("", "retrace-lineage-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(tmp)
	fresh := filepath.Join(tmp, "fresh")
	have := filepath.Join(l.dir, lineageDir)
	switch _, statErr := os.Stat(have); {
	case l.local == nil:
		notCompared = "the server's own index was not looked at"
	case errors.Is(statErr, fs.ErrNotExist):
		notCompared = "the directory has no index of its own"
	default:
		// The audit changes nothing, and opening an index writes to it.
		mine := filepath.Join(tmp, "have")
		if err := os.CopyFS(mine, os.DirFS(have)); err != nil {
			return "", "", err
		}
		err := compareLineage(ctx, l.local, mine, fresh)
		var differs *lineage.DifferenceError
		var unusable *lineage.UnusableError
		switch {
		case errors.As(err, &differs):
			r.Add(replay.Finding{Entry: -1, Kind: replay.KindLineage, Problem: have + ": " + differs.Error() + lineageRemedy})
		case errors.As(err, &unusable):
			r.Add(replay.Finding{Entry: -1, Kind: replay.KindLineage, Problem: have + ": " + unusable.Err.Error() + lineageRemedy})
		case err != nil:
			return "", "", err
		}
	}
	g, err := openGraph(ctx, fresh, l.log)
	if err != nil {
		return "", "", err
	}
	defer g.Close()
	sum, err := g.Digest(ctx)
	return hex.EncodeToString(sum[:]), notCompared, err
}

// write signs the verdict into a file and returns the ID of the key. One that
// is neither passed nor failed never comes here.
func (o *ledgerAudit) write(got outcome, policy replay.Policy) (string, error) {
	k, err := o.signingKey()
	if err != nil {
		return "", err
	}
	verifier := schema.Verifier{ID: schema.RunBuilder, Version: map[string]string{"retrace": version()}}
	s, err := policy.Statement(got.report, got.checkpoint, verifier, time.Now())
	if err != nil {
		return "", err
	}
	env, err := k.SignStatement(s)
	if err != nil {
		return "", err
	}
	return k.ID(), writeWhole(o.out, append(env.Raw, '\n'), 0o644)
}

// signingKey is the auditor's: as named, or the one that this user has for
// servers.
func (o *ledgerAudit) signingKey() (*keys.Private, error) {
	if o.sign == "" {
		return agentKey()
	}
	return keys.Load(o.sign)
}

// writeWhole replaces a file by one with the given content: whoever reads it
// finds the old one or the new one, whole.
func writeWhole(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
