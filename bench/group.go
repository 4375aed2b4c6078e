package main

import "context"

// groupMost is how many entries a group commit takes at most: as many as a
// ledger's.
const groupMost = 4096

// group commits what callers append in groups: while one is committed the
// next comes together. It is what makes a database with one writer fast.
type group struct {
	queue chan waiting
	done  chan struct{}
}

type waiting struct {
	entry  []byte
	answer chan error
}

// newGroup starts committing. The goroutine ends with close.
func newGroup(commit func(entries [][]byte) error) *group {
	g := &group{queue: make(chan waiting, groupMost), done: make(chan struct{})}
	go func() {
		defer close(g.done)
		for w := range g.queue {
			all := []waiting{w}
			entries := [][]byte{w.entry}
			for len(g.queue) > 0 && len(all) < groupMost {
				w := <-g.queue
				all, entries = append(all, w), append(entries, w.entry)
			}
			err := commit(entries)
			for _, w := range all {
				w.answer <- err
			}
		}
	}()
	return g
}

func (g *group) append(ctx context.Context, entry []byte) error {
	w := waiting{entry, make(chan error, 1)}
	g.queue <- w
	select {
	case err := <-w.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close waits for the last commit.
func (g *group) close() {
	close(g.queue)
	<-g.done
}
