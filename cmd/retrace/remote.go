package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/keys"
	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/schema"
)

// discover returns a client of the server that runs for the ledger in dir, if
// one does.
func discover(ctx context.Context, dir string) (*client.Client, bool, error) {
	c, err := client.Discover(ctx, dir)
	if errors.Is(err, client.ErrNoServer) {
		return nil, false, nil
	}
	return c, err == nil, err
}

// openBeside opens a ledger of this machine through the server that holds it.
// Content is shared with the server; entries are signed here and appended
// there.
func openBeside(ctx context.Context, dir string, c *client.Client) (_ *book, err error) {
	b := &book{dir: dir}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if err := b.loadObserver(dir); err != nil {
		return nil, err
	}
	if err := b.openStore(ctx, dir); err != nil {
		return nil, err
	}
	return b, b.followRemote(ctx, c)
}

// openRemote opens the ledger behind --server. The agent signs with a key of
// its own.
func (a *app) openRemote(ctx context.Context) (_ *book, err error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	b := &book{store: remoteContent{c.Content()}}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.observer, err = agentKey(); err != nil {
		return nil, err
	}
	return b, b.followRemote(ctx, c)
}

func (a *app) client() (*client.Client, error) {
	c, err := client.New(a.server, os.Getenv("RETRACE_TOKEN"))
	if err != nil {
		return nil, cannot(err)
	}
	return c, nil
}

// followRemote brings an index of this user's up to the ledger behind c.
func (b *book) followRemote(ctx context.Context, c *client.Client) error {
	l, err := c.Ledger(ctx)
	if err != nil {
		return err
	}
	b.log, b.client = l, c
	at, err := remoteIndex(c.Address(), l.Checkpoint())
	if err != nil {
		return err
	}
	if b.graph, err = openGraph(ctx, at, b.log); err != nil {
		// Another command of this user has it open: one that comes and goes.
		tmp, mkErr := os.MkdirTemp("", "retrace-lineage-")
		if mkErr != nil {
			return mkErr
		}
		b.close = append(b.close, func() error { return os.RemoveAll(tmp) })
		if b.graph, err = openGraph(ctx, tmp, b.log); err != nil {
			return err
		}
	}
	b.close = append(b.close, b.graph.Close)
	return nil
}

// refresh reads what others appended since the ledger was opened.
func (b *book) refresh(ctx context.Context) error {
	if b.client != nil {
		l, err := b.client.Ledger(ctx)
		if err != nil {
			return err
		}
		b.log = l
	}
	return b.graph.Follow(ctx, b.log)
}

// remoteIndex is where the index of a remote ledger is kept between commands.
func remoteIndex(address string, checkpoint []byte) (string, error) {
	origin, _, _ := strings.Cut(string(checkpoint), "\n")
	sum := sha256.Sum256([]byte(address + "\n" + origin))
	base, err := os.UserCacheDir()
	if err != nil {
		return os.MkdirTemp("", "retrace-lineage-")
	}
	at := filepath.Join(base, "retrace", hex.EncodeToString(sum[:8]), lineageDir)
	return at, os.MkdirAll(at, 0o700)
}

// agentKey is this user's key for remote ledgers, made on first use.
func agentKey() (*keys.Private, error) {
	base, err := os.UserConfigDir()
	if err != nil {
		return nil, fmt.Errorf("finding the agent's key: %w", err)
	}
	path := filepath.Join(base, "retrace", "agent.key")
	k, err := keys.Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if k, err = keys.Generate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := k.Create(path); err != nil {
		if errors.Is(err, fs.ErrExist) { // another command was faster
			return keys.Load(path)
		}
		return nil, err
	}
	pem, err := k.PublicPEM()
	if err != nil {
		return nil, err
	}
	pub := strings.TrimSuffix(path, ".key") + ".pub"
	if err := os.WriteFile(pub, []byte(pem), 0o644); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "retrace: made this agent's key %s; have the ledger trust it: retrace keys trust %s\n", k.ID(), pub)
	return k, nil
}

// remoteContent is the content store of a server.
type remoteContent struct{ *client.Content }

// Excluded implements snapshot.Store: no ledger of this machine is concerned.
func (remoteContent) Excluded(string) []string { return nil }

// Snapshot implements snapshot.Store. The server keeps what it is handed for
// good, and every file is read.
func (r remoteContent) Snapshot(ctx context.Context, path, _ string, _ bool) (schema.Key, []schema.SnapshotFile, error) {
	return r.PutFiles(ctx, path)
}

// Durability implements snapshot.Store: where the server keeps it, it knows.
func (remoteContent) Durability(string) string { return "" }

// isConflict says that another writer moved the cursor first.
func isConflict(err error) bool {
	var here *ledger.CursorError
	var there *client.Error
	return errors.As(err, &here) || (errors.As(err, &there) && there.Status == http.StatusConflict)
}
