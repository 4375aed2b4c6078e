package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/codenotary/immudb/embedded/logger"
	"github.com/codenotary/immudb/embedded/store"
)

const immudbModule = "github.com/codenotary/immudb"

// immudbs are immudb's embedded store, synchronous, with its own sync interval
// and with the one that answered soonest here. Its limits on callers are raised,
// and those on the size of a transaction lowered, which saves it memory.
func immudbs() []contestant {
	name := "immudb embedded" + version(immudbModule)
	how := "synced every %s, one key, the digest, to the envelope; not waiting for its index"
	return []contestant{
		{
			Name: name + ", sync 1 ms", Durable: true, Provable: true, Goal: 2.5,
			How: fmt.Sprintf(how, "1 ms"),
			open: func(_ context.Context, dir string, callers int) (peer, error) {
				return openImmudb(dir, callers, time.Millisecond)
			},
		}, {
			Name: name + ", defaults", Durable: true, Provable: true, Goal: 2.5,
			How: fmt.Sprintf(how, store.DefaultSyncFrequency),
			open: func(_ context.Context, dir string, callers int) (peer, error) {
				return openImmudb(dir, callers, store.DefaultSyncFrequency)
			},
		},
	}
}

type immudb struct{ *store.ImmuStore }

func openImmudb(dir string, callers int, sync time.Duration) (*immudb, error) {
	room := 2*callers + 64
	s, err := store.Open(dir, store.DefaultOptions().
		WithLogger(logger.NewSimpleLoggerWithLevel("immudb", io.Discard, logger.LogError)).
		WithSyncFrequency(sync).
		WithMaxConcurrency(room).
		WithMaxActiveTransactions(room).
		WithMaxWaitees(room).
		WithMaxTxEntries(16).
		WithMaxKeyLen(64))
	if err != nil {
		return nil, fmt.Errorf("opening immudb's store: %w", err)
	}
	return &immudb{s}, nil
}

func (s *immudb) Append(ctx context.Context, entry []byte) error {
	key := sha256.Sum256(entry)
	_, err := s.set(ctx, key[:], entry)
	return err
}

func (s *immudb) set(ctx context.Context, key, value []byte) (*store.TxHeader, error) {
	tx, err := s.NewWriteOnlyTx(ctx)
	if err != nil {
		return nil, err
	}
	if err := tx.Set(key, nil, value); err != nil {
		return nil, errors.Join(err, tx.Cancel())
	}
	return tx.AsyncCommit(ctx)
}
