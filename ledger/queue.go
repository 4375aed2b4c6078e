package ledger

import (
	"sync"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// A commit takes whatever waits. Callers that come back as soon as they are
// answered would split into two halves that take turns, so after a commit that
// many waited for, the next one gives those a moment to come back. Few callers
// are never made to wait.
const (
	lingerAbove = 128 // callers on their way
	lingerMost  = 3 * time.Millisecond
)

// queue holds the requests that wait for the next commit.
type queue struct {
	wake chan struct{} // has room for one

	mu      sync.Mutex
	waiting []*pending
	want    int   // wake when so many wait
	taken   int   // in the group that was taken last
	refusal error // why nothing more is taken; nil while open
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1), want: 1} }

func (q *queue) put(p *pending) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refusal != nil {
		return q.refusal
	}
	q.waiting = append(q.waiting, p)
	if len(q.waiting) >= q.want {
		q.signal()
	}
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// close makes put refuse with err. What waits stays for take.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refusal == nil {
		q.refusal = err
	}
	q.signal()
}

// why says why put refuses.
func (q *queue) why() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refusal
}

// take returns the requests for one commit, at least one of them, as many as
// wait within the bounds of a commit. It returns none when the queue is closed
// and empty. The group that it returned before has been answered.
func (q *queue) take() []*pending {
	q.linger()
	for {
		q.mu.Lock()
		group := q.cut()
		q.taken = len(group)
		over := q.refusal != nil && len(q.waiting) == 0
		q.mu.Unlock()
		if len(group) > 0 || over {
			return group
		}
		<-q.wake
	}
}

// linger waits until those that were just answered are back, if they were
// many, but not long.
func (q *queue) linger() {
	q.mu.Lock()
	q.want = q.taken + len(q.waiting)
	if q.refusal != nil || q.taken == 0 || q.want <= lingerAbove {
		q.want = 1
	}
	for len(q.wake) > 0 {
		<-q.wake
	}
	wait := q.want > 1
	q.mu.Unlock()
	if !wait {
		return
	}
	timer := time.NewTimer(lingerMost)
	defer timer.Stop()
	select {
	case <-q.wake:
	case <-timer.C:
	}
	q.mu.Lock()
	q.want = 1
	q.mu.Unlock()
}

// cut takes the first requests off the queue. Those whose caller went away are
// dropped.
func (q *queue) cut() []*pending {
	var group []*pending
	n, entries, bytes := 0, 0, 0
	for _, p := range q.waiting {
		if len(group) > 0 && (entries+len(p.envelopes) > schema.MaxBatchEnvelopes || bytes+p.bytes > schema.MaxBatchBytes) {
			break
		}
		n++
		if p.taken.Swap(true) {
			continue
		}
		entries += len(p.envelopes)
		bytes += p.bytes
		group = append(group, p)
	}
	q.waiting = q.waiting[n:]
	return group
}
