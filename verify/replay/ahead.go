package replay

import (
	"context"
	"iter"

	"github.com/retrace-ledger/retrace/schema"
)

// Bounds of a chunk. One is read while the one before is checked, on all cores.
const (
	chunkEntries = 1024
	chunkBytes   = 8 << 20
)

// chunk is some entries that the log gave one after another.
type chunk struct {
	entries []schema.Entry
	err     error // why the log gave no more after them
}

// ahead yields what log gives from the entry from on, up to size, and reads the
// next chunk while the caller looks at one. It has stopped reading when it
// returns.
func ahead(ctx context.Context, log Log, from, size int64) iter.Seq[chunk] {
	return func(yield func(chunk) bool) {
		ctx, stop := context.WithCancel(ctx)
		chunks := make(chan chunk)
		go func() {
			defer close(chunks)
			read(ctx, log, from, size, chunks)
		}()
		defer func() {
			stop()
			for range chunks {
			}
		}()
		for c := range chunks {
			if !yield(c) {
				return
			}
		}
	}
}

// read sends what log gives, and nothing more once ctx has ended.
func read(ctx context.Context, log Log, from, size int64, chunks chan<- chunk) {
	var c chunk
	held := 0
	send := func() bool {
		select {
		case chunks <- c:
			c, held = chunk{}, 0
			return true
		case <-ctx.Done():
			return false
		}
	}
	for e, err := range log.Entries(ctx, from) {
		if err != nil {
			c.err = err
			break
		}
		c.entries, held = append(c.entries, e), held+len(e.Body)
		from++
		if from == size {
			break
		}
		if (len(c.entries) == chunkEntries || held >= chunkBytes) && !send() {
			return
		}
	}
	if len(c.entries) > 0 || c.err != nil {
		send()
	}
}
