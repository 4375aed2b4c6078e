package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

const tesseraModule = "github.com/transparency-dev/tessera"

// tesseras are Tessera's log in files, with its own settings and with those
// that answered soonest here, waiting for an index in the integrated tree or
// for a published checkpoint over it.
func tesseras() []contestant {
	name := "Tessera POSIX" + version(tesseraModule)
	defaults := tessera.NewAppendOptions
	tuned := func() *tessera.AppendOptions {
		// 100 ms is the least that POSIX takes for the interval.
		return tessera.NewAppendOptions().WithBatching(1024, 5*time.Millisecond).WithCheckpointInterval(100 * time.Millisecond)
	}
	return []contestant{
		{
			Name: name + ", tuned, published", Durable: true, Provable: true, Signed: true, Goal: 8,
			How:  "batches of 1,024 or 5 ms, a checkpoint every 100 ms, the least it takes",
			open: openTessera(tuned, true),
		}, {
			Name: name + ", defaults, published", Durable: true, Provable: true, Signed: true, slow: true,
			How:  "batches of 256 or 250 ms, a checkpoint every 10 s",
			open: openTessera(defaults, true),
		}, {
			Name: name + ", tuned, integrated", Durable: true, Provable: true,
			How:  "in the tree, which nothing has signed yet",
			open: openTessera(tuned, false),
		}, {
			Name: name + ", defaults, integrated", Durable: true, Provable: true,
			How:  "in the tree, which nothing has signed yet",
			open: openTessera(defaults, false),
		},
	}
}

type tesseraLog struct {
	appender *tessera.Appender
	await    *tessera.PublicationAwaiter // nil: the index is enough
	stop     context.CancelFunc
}

func openTessera(options func() *tessera.AppendOptions, published bool) func(context.Context, string, int) (peer, error) {
	return func(ctx context.Context, dir string, _ int) (peer, error) {
		key, _, err := note.GenerateKey(rand.Reader, "retrace.example/bench-tessera")
		if err != nil {
			return nil, err
		}
		signer, err := note.NewSigner(key)
		if err != nil {
			return nil, err
		}
		driver, err := posix.New(ctx, posix.Config{Path: dir})
		if err != nil {
			return nil, err
		}
		ctx, stop := context.WithCancel(ctx)
		appender, _, reader, err := tessera.NewAppender(ctx, driver, options().WithCheckpointSigner(signer))
		if err != nil {
			stop()
			return nil, fmt.Errorf("opening Tessera's log: %w", err)
		}
		l := &tesseraLog{appender: appender, stop: stop}
		if published {
			l.await = tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 5*time.Millisecond)
		}
		return l, nil
	}
}

func (l *tesseraLog) Append(ctx context.Context, entry []byte) error {
	future := l.appender.Add(ctx, tessera.NewEntry(entry))
	if l.await != nil {
		_, _, err := l.await.Await(ctx, future)
		return err
	}
	_, err := future()
	return err
}

// Close does not wait for the next checkpoint.
func (l *tesseraLog) Close() error {
	l.stop()
	return nil
}
