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

	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/run"
	"github.com/retrace-ledger/retrace/ingest/s3"
	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/lineage"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// app is what all commands share: the flags of the root.
type app struct {
	dir    string
	server string
	output string
}

// Names of files and folders in a ledger's directory beside those of package
// ledger.
const (
	dirName     = ".retrace"
	logKeyFile  = "log.key"
	logVKeyFile = "log.vkey"
	logPubFile  = "log.pub"
	observerKey = "observer.key"
	observerPub = "observer.pub"
	lineageDir  = "lineage"
	contentDir  = "content"
	cacheDir    = "cache"
)

// lockWait is how long a command waits for another that holds the ledger
// (DESIGN 12.15).
const lockWait = 30 * time.Second

// quietWait is how much of that passes without a word: two short commands
// that meet are nothing to speak of.
const quietWait = time.Second

// findDir is the ledger's directory: as named, or .retrace in the working
// directory or the nearest parent.
func (a *app) findDir() (string, error) {
	if a.dir != "" {
		if _, err := os.Stat(filepath.Join(a.dir, logVKeyFile)); err != nil {
			return "", cannot(fmt.Errorf("%w in %s", errNoLedger, a.dir))
		}
		return filepath.Abs(a.dir)
	}
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		dir := filepath.Join(at, dirName)
		if _, err := os.Stat(filepath.Join(dir, logVKeyFile)); err == nil {
			return dir, nil
		}
		if at == filepath.Dir(at) {
			return "", cannot(fmt.Errorf("%w here: there is no %s in this directory or a parent", errNoLedger, dirName))
		}
		at = filepath.Dir(at)
	}
}

// bookLog is a ledger as commands use it, opened here or behind a server.
type bookLog interface {
	Append(ctx context.Context, b schema.Batch) (schema.Receipt, error)
	Cursor(ctx context.Context, namespace, source string) (string, error)
	Erase(ctx context.Context, index int64, env schema.Envelope) (schema.Receipt, error)
	Size() int64
	Checkpoint() []byte
	Entry(ctx context.Context, index int64) (schema.Entry, error)
	Entries(ctx context.Context, from int64) iter.Seq2[schema.Entry, error]
	ProveInclusion(ctx context.Context, index, size int64) ([]tlog.Hash, error)
}

// contentStore is where bytes are kept: here, or behind a server.
type contentStore interface {
	run.Store
	snapshot.Store
}

// book is an open ledger with its lineage.
type book struct {
	dir      string // "" for one that is only behind a server
	log      bookLog
	graph    *lineage.Graph
	observer *keys.Private // nil where the private key is not here
	store    contentStore  // nil where content is not at hand
	// places are the sources that a configuration names, as it is now; nil where
	// there is none.
	places func() []ingest.Place
	client *client.Client // of the server that holds the ledger; nil if it is open here
	close  []func() error
}

// Close closes what open opened, last first.
func (b *book) Close() error {
	var errs []error
	for i := len(b.close) - 1; i >= 0; i-- {
		errs = append(errs, b.close[i]())
	}
	return errors.Join(errs...)
}

// open opens the ledger and brings its lineage up to date. The caller closes
// the book.
func (a *app) open(ctx context.Context) (*book, error) {
	if a.server != "" {
		return a.openRemote(ctx)
	}
	dir, err := a.findDir()
	if err != nil {
		return nil, err
	}
	if c, ok, err := discover(ctx, dir); err != nil {
		return nil, err
	} else if ok {
		return openBeside(ctx, dir, c)
	}
	b, err := openLocal(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := follow(ctx, b.graph, b.log); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// openLocal opens a ledger directory of this machine: for writing where its
// private keys are, else for reading. Its lineage is as it was left.
func openLocal(ctx context.Context, dir string) (_ *book, err error) {
	b := &book{dir: dir}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	l, err := openLedger(ctx, dir)
	if err != nil {
		return nil, err
	}
	b.log = l
	b.close = append(b.close, l.Close)
	if err := b.loadObserver(dir); err != nil {
		return nil, err
	}
	if err := b.openStore(ctx, dir); err != nil {
		return nil, err
	}
	return b, b.openGraph(ctx, dir)
}

// openStore opens the content store, which leaves the ledger's own folder out
// of whatever it keeps.
func (b *book) openStore(ctx context.Context, dir string) error {
	s, err := openContent(ctx, dir)
	if err != nil {
		return err
	}
	b.store = s
	b.close = append(b.close, func() error { return s.Close(context.WithoutCancel(ctx)) })
	return nil
}

// held says whether the content store has the bytes of r, or they can be had
// from where they came from.
func (b *book) held(ctx context.Context, r schema.Resource) (bool, error) {
	if r.Kind == "oci" || r.Kind == s3.Name && r.URI != "" {
		return r.URI != "", nil
	}
	if b.store == nil {
		return false, nil
	}
	return b.store.Has(ctx, r.Key)
}

// loadObserver loads the observer key, which a copy may lack.
func (b *book) loadObserver(dir string) error {
	k, err := loadKey(filepath.Join(dir, observerKey))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	b.observer = k
	return err
}

// openGraph opens the lineage index, in the ledger's directory or, where that
// cannot be written, in a temporary one. It does not follow the log.
func (b *book) openGraph(ctx context.Context, dir string) error {
	at := filepath.Join(dir, lineageDir)
	if !writable(dir) {
		tmp, err := os.MkdirTemp("", "retrace-lineage-")
		if err != nil {
			return err
		}
		b.close = append(b.close, func() error { return os.RemoveAll(tmp) })
		at = tmp
	}
	g, err := openIndex(at, b.log)
	if err != nil {
		return err
	}
	b.graph = g
	b.close = append(b.close, g.Close)
	return nil
}

// openGraph opens a lineage index and brings it up to the log.
func openGraph(ctx context.Context, at string, log bookLog) (*lineage.Graph, error) {
	g, err := openIndex(at, log)
	if err != nil {
		return nil, err
	}
	if err := follow(ctx, g, log); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func openIndex(at string, log bookLog) (*lineage.Graph, error) {
	return lineage.Open(at, log, verify.Signers, verify.Trusted)
}

// follow brings g up to the log, with a bar on a terminal.
func follow(ctx context.Context, g *lineage.Graph, log bookLog) error {
	from, size := g.Size(), log.Size()
	bar := newProgress(size-from, "reading the ledger")
	defer bar.finish()
	defer bar.watch(func() int64 { return g.Size() - from }, size-from)()
	return g.Follow(ctx, log)
}

func writable(dir string) bool {
	f, err := os.CreateTemp(dir, ".writable-")
	if err != nil {
		return false
	}
	f.Close()
	return os.Remove(f.Name()) == nil
}

// openLedger opens the ledger in dir and waits for another process that holds
// it, saying so.
func openLedger(ctx context.Context, dir string) (*ledger.Ledger, error) {
	return waitForLedger(ctx, dir, lockWait)
}

func waitForLedger(ctx context.Context, dir string, patience time.Duration) (*ledger.Ledger, error) {
	deadline := time.Now().Add(patience)
	said := false
	var key logKey
	for {
		l, err := key.open(dir)
		if !errors.Is(err, ledger.ErrLocked) || time.Now().After(deadline) {
			return l, err
		}
		if !said && time.Until(deadline) < patience-quietWait {
			fmt.Fprintf(os.Stderr, "retrace: %v; waiting up to %s\n", err, patience)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tryOpen opens the ledger in dir without waiting for anybody.
func tryOpen(dir string) (*ledger.Ledger, error) { return new(logKey).open(dir) }

// view is the graph as of a size and a time, as flags give them.
func (b *book) view(size int64, at string) (*lineage.View, error) {
	t, err := parseTime(at, time.Now())
	if err != nil {
		return nil, cannot(err)
	}
	if !t.IsZero() {
		fmt.Fprintf(os.Stderr, "retrace: as of %s\n", t.Format(time.RFC3339))
	}
	return b.graph.View(lineage.At{Size: size, Time: t})
}

// resolve finds what a reference means; a path is hashed first.
func resolve(ctx context.Context, v *lineage.View, text string) (lineage.Ref, error) {
	if isPath(text) {
		key, _, err := content.Digest(ctx, text)
		if err != nil {
			return lineage.Ref{}, err
		}
		ref, err := v.Resolve(string(key))
		ref.Text = text
		if errors.Is(err, lineage.ErrNotFound) {
			err = fmt.Errorf("%s, which holds %s: %w", text, key.Short(), lineage.ErrNotFound)
		}
		return ref, err
	}
	ref, err := v.Resolve(text)
	if errors.Is(err, lineage.ErrNotFound) && !strings.Contains(text, ":") {
		if _, statErr := os.Lstat(text); statErr == nil {
			err = &hinted{err, fmt.Sprintf("a path begins with ./ or /: for the file or folder here, write ./%s", text)}
		}
	}
	return ref, err
}

// isPath says whether a reference is a path (DESIGN 7.1).
func isPath(text string) bool {
	for _, prefix := range []string{"./", "../", "/"} {
		if len(text) >= len(prefix) && text[:len(prefix)] == prefix {
			return true
		}
	}
	return text == "." || text == ".."
}

// record appends like append, and brings the lineage up to what was appended.
func (b *book) record(ctx context.Context, source string, statements []schema.Statement, cursors ...schema.Cursor) (schema.Receipt, error) {
	r, err := b.append(ctx, source, statements, cursors...)
	if err != nil {
		return r, err
	}
	return r, b.graph.Follow(ctx, b.log)
}

// append signs statements as the observer and appends them with cursors, whole
// or not at all.
func (b *book) append(ctx context.Context, source string, statements []schema.Statement, cursors ...schema.Cursor) (schema.Receipt, error) {
	if b.observer == nil {
		return schema.Receipt{}, fmt.Errorf("%s has no %s: %w", b.dir, observerKey, ledger.ErrReadOnly)
	}
	batch := schema.Batch{Namespace: schema.DefaultNamespace, Source: source, Submitter: b.observer.ID(), Cursors: cursors}
	for _, s := range statements {
		env, err := b.observer.SignStatement(s)
		if err != nil {
			return schema.Receipt{}, err
		}
		batch.Envelopes = append(batch.Envelopes, env)
	}
	return b.log.Append(ctx, batch)
}
