package git

import (
	"bytes"
	"container/heap"
	"context"
	"strconv"

	"github.com/go-git/go-git/v5/plumbing"
)

// node is what a walk needs of a commit.
type node struct {
	hash    plumbing.Hash
	time    int64 // the committer's clock, in seconds
	parents []plumbing.Hash
	known   bool // reachable from a commit that was stated before
	queued  bool
}

// header reads what a walk needs out of a commit object. It takes objects that
// a strict decoder refuses: an odd commit must not hide its ancestors.
func header(raw []byte) (parents []plumbing.Hash, time int64) {
	for len(raw) > 0 {
		line, rest, _ := bytes.Cut(raw, []byte{'\n'})
		raw = rest
		if len(line) == 0 {
			return parents, time // the message begins
		}
		if hex, ok := bytes.CutPrefix(line, []byte("parent ")); ok && plumbing.IsHash(string(hex)) {
			parents = append(parents, plumbing.NewHash(string(hex)))
		}
		if person, ok := bytes.CutPrefix(line, []byte("committer ")); ok {
			time = personTime(person)
		}
	}
	return parents, time
}

// personTime is the seconds since 1970 of "NAME <EMAIL> SECONDS ZONE", or 0.
func personTime(person []byte) int64 {
	fields := bytes.Fields(person[bytes.LastIndexByte(person, '>')+1:])
	if len(fields) == 0 {
		return 0
	}
	t, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return 0
	}
	return t
}

// node reads a commit. Parents beyond the edge of a shallow repository are left
// out.
func (r *repository) node(h plumbing.Hash) (*node, error) {
	raw, err := r.raw(plumbing.CommitObject, h)
	if err != nil {
		return nil, err
	}
	n := &node{hash: h}
	n.parents, n.time = header(raw)
	if r.shallow[h] {
		n.parents = nil
	}
	return n, nil
}

// byTime is a heap of commits: newest first, or oldest first. Ties are broken
// by hash, so that an order is a function of the commits.
type byTime struct {
	nodes  []*node
	oldest bool
}

func (q *byTime) Len() int { return len(q.nodes) }
func (q *byTime) Less(i, j int) bool {
	a, b := q.nodes[i], q.nodes[j]
	if a.time != b.time {
		return a.time > b.time != q.oldest
	}
	return bytes.Compare(a.hash[:], b.hash[:]) < 0
}
func (q *byTime) Swap(i, j int) { q.nodes[i], q.nodes[j] = q.nodes[j], q.nodes[i] }
func (q *byTime) Push(x any)    { q.nodes = append(q.nodes, x.(*node)) }
func (q *byTime) Pop() any {
	last := q.nodes[len(q.nodes)-1]
	q.nodes = q.nodes[:len(q.nodes)-1]
	return last
}

// slop is how many more commits are looked at when only known ones are left,
// for histories whose clocks run backwards.
const slop = 256

// walk finds the commits that can be reached from some and not from others.
type walk struct {
	repo    *repository
	nodes   map[plumbing.Hash]*node
	queue   byTime
	pending int // commits in the queue that are not known
}

// between returns the commits that can be reached from tips and not from
// known, parents before children, else by committer time and hash.
//
// It looks at the newest commits first and stops when all that is left is
// known, so its cost is that of what is new. Where clocks run backwards it can
// return commits that were stated before: the log takes them for what they are.
// It never leaves out one that was not.
func (r *repository) between(ctx context.Context, tips, known []plumbing.Hash) ([]plumbing.Hash, error) {
	w := &walk{repo: r, nodes: map[plumbing.Hash]*node{}}
	for _, h := range known {
		if err := w.push(h, true); err != nil {
			return nil, err
		}
	}
	for _, h := range tips {
		if err := w.push(h, false); err != nil {
			return nil, err
		}
	}
	var found []*node
	for left := slop; w.queue.Len() > 0 && left > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := w.pop()
		if n.known {
			if w.pending == 0 {
				left--
			}
		} else {
			found = append(found, n)
		}
		for _, p := range n.parents {
			if err := w.push(p, n.known); err != nil {
				return nil, err
			}
		}
	}
	return sortParentsFirst(found), nil
}

// push queues a commit that was not seen, and marks it and its seen ancestors
// if it is known.
func (w *walk) push(h plumbing.Hash, known bool) error {
	n, ok := w.nodes[h]
	if !ok {
		var err error
		if n, err = w.repo.node(h); err != nil {
			return err
		}
		n.known, n.queued = known, true
		w.nodes[h] = n
		heap.Push(&w.queue, n)
		if !known {
			w.pending++
		}
		return nil
	}
	if known && !n.known {
		w.mark(n)
	}
	return nil
}

func (w *walk) pop() *node {
	n := heap.Pop(&w.queue).(*node)
	n.queued = false
	if !n.known {
		w.pending--
	}
	return n
}

// mark makes n and what was seen of its ancestors known.
func (w *walk) mark(n *node) {
	for stack := []*node{n}; len(stack) > 0; {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if n.known {
			continue
		}
		n.known = true
		if n.queued {
			w.pending--
		}
		for _, p := range n.parents {
			if seen := w.nodes[p]; seen != nil {
				stack = append(stack, seen)
			}
		}
	}
}

// sortParentsFirst orders the commits that are not known.
func sortParentsFirst(nodes []*node) []plumbing.Hash {
	waiting := map[plumbing.Hash]int{} // parents to come before
	children := map[plumbing.Hash][]*node{}
	for _, n := range nodes {
		if !n.known {
			waiting[n.hash] = 0
		}
	}
	for _, n := range nodes {
		if n.known {
			continue
		}
		for _, p := range n.parents {
			if _, ok := waiting[p]; ok {
				waiting[n.hash]++
				children[p] = append(children[p], n)
			}
		}
	}
	ready := &byTime{oldest: true}
	for _, n := range nodes {
		if !n.known && waiting[n.hash] == 0 {
			heap.Push(ready, n)
		}
	}
	sorted := make([]plumbing.Hash, 0, len(waiting))
	for ready.Len() > 0 {
		n := heap.Pop(ready).(*node)
		sorted = append(sorted, n.hash)
		for _, c := range children[n.hash] {
			if waiting[c.hash]--; waiting[c.hash] == 0 {
				heap.Push(ready, c)
			}
		}
	}
	return sorted
}

// descends says whether old is a commit or one of its ancestors. A commit that
// is no longer here is no ancestor of one whose history is.
func (r *repository) descends(ctx context.Context, commit, old plumbing.Hash) (bool, error) {
	w := &walk{repo: r, nodes: map[plumbing.Hash]*node{}}
	if commit == old {
		return true, nil
	}
	if !r.has(old) {
		return false, nil
	}
	if err := w.push(commit, false); err != nil {
		return false, err
	}
	for w.queue.Len() > 0 {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		for _, p := range w.pop().parents {
			if p == old {
				return true, nil
			}
			if err := w.push(p, false); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}
