package ledger

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Options changes how a ledger is opened. The zero value is right.
type Options struct {
	Now func() time.Time // the committer's clock; time.Now if nil

	// step is called between the steps of a commit. An error from it is a
	// failure of the step. For tests.
	step func(step string) error
	// free is how many bytes of the disk are left. For tests.
	free func(dir string) (uint64, error)
}

// tileCacheSize is how many expanded tiles are kept, of 16 KiB each.
const tileCacheSize = 1024

// Ledger is an open ledger. Its methods may be called concurrently.
type Ledger struct {
	dir      string
	verifier note.Verifier
	genesis  genesis
	engine   engine.Engine
	lock     *dirLock
	tiles    *lru.Cache[tileID, *fullTile]
	view     atomic.Pointer[view]
	queue    *queue
	done     chan struct{} // closed when nothing will be committed any more

	// open is held for reading while the engine is used, so that Close does
	// not take it away. closed is guarded by it.
	open   sync.RWMutex
	closed bool
	once   sync.Once // of Close
	err    error     // of Close

	// unsigned is held by the committer from its transaction to the moment when
	// the checkpoint over it is durable and readers see it, so that nobody
	// reads a cursor that stands for entries which were not signed yet.
	unsigned sync.RWMutex
	// beyond says, where it is not nil, that the store holds a commit that was
	// not signed, so that its cursors are ahead of what is answered from. It is
	// guarded by unsigned.
	beyond error

	// cosigned is the newest checkpoint that witnesses cosigned; nil if there
	// is none. cosigning is held while it is replaced.
	cosigned  atomic.Pointer[verify.Checkpoint]
	cosigning sync.Mutex

	// The rest belongs to the committer. It is nil in a ledger that is open
	// read-only.
	committer *committer
}

// genesis is what entry 0 says, and what rotations made of it since.
type genesis struct {
	origin     string
	log        note.Verifier // in force
	observerID string        // in force
	chain      *verify.Chain
}

// newGenesis is what a chain of keys says.
func newGenesis(c *verify.Chain) genesis {
	return genesis{origin: c.Origin(), log: c.Log(), observerID: c.Observer().ID, chain: c}
}

// at is what held for the entry at index.
func (g genesis) at(index int64) genesis {
	if g.chain == nil {
		return g
	}
	return newGenesis(g.chain.At(index))
}

// readGenesis takes the genesis statement out of an envelope and checks that
// it says what a ledger needs and that the observer key it names signed it.
func readGenesis(env schema.Envelope) (genesis, error) {
	var g genesis
	s, err := env.Statement()
	if err != nil {
		return g, fmt.Errorf("genesis: %w", err)
	}
	if s.PredicateType != schema.GenesisV1 {
		return g, fmt.Errorf("genesis: the statement is of type %q, not %q", clip(s.PredicateType), schema.GenesisV1)
	}
	if _, err := s.Facts(); err != nil {
		return g, fmt.Errorf("genesis: %w", err)
	}
	var p schema.Genesis
	if err := schema.DecodePredicate(s, true, &p); err != nil {
		return g, fmt.Errorf("genesis: %w", err)
	}
	chain, err := verify.NewChain(p)
	if err != nil {
		return g, fmt.Errorf("genesis: %w", err)
	}
	g = newGenesis(chain)
	if claims, err := g.checkOwn(env); err != nil || !claims {
		return g, fmt.Errorf("genesis: it is not signed by the observer key it names, %s", g.observerID)
	}
	return g, nil
}

// matches checks that key is the log key in force.
func (g genesis) matches(key interface {
	Name() string
	KeyHash() uint32
}) error {
	if key.Name() != g.origin || key.KeyHash() != g.log.KeyHash() {
		return fmt.Errorf("the key is %s+%08x, and the ledger is of %s+%08x", key.Name(), key.KeyHash(), g.origin, g.log.KeyHash())
	}
	return nil
}

// Origin is the first line of every checkpoint of the ledger.
func (l *Ledger) Origin() string { return l.genesis.origin }

// Observer is the ID of the key that signs what retrace itself observes: the
// one in force, of those that Keys returns.
func (l *Ledger) Observer() string { return l.genesis.observerID }

// Dir is the directory of the ledger.
func (l *Ledger) Dir() string { return l.dir }

// Close commits what is waiting and ends. Further calls do nothing and return
// what the first returned.
func (l *Ledger) Close() error {
	l.once.Do(func() { l.err = l.close() })
	return l.err
}

func (l *Ledger) close() error {
	l.queue.close(fmt.Errorf("%s: %w", l.dir, ErrClosed))
	if l.committer == nil {
		close(l.done)
	}
	<-l.done
	l.open.Lock()
	defer l.open.Unlock()
	l.closed = true
	return l.release()
}

// release closes what the ledger holds, whatever of it is there.
func (l *Ledger) release() error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if l.engine != nil {
		keep(l.engine.Close())
	}
	if l.committer != nil && l.committer.file != nil {
		keep(l.committer.file.Close())
	}
	if l.lock != nil {
		keep(l.lock.release())
	}
	return first
}
