package git

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// Kind returns the kind "git" for ingest/all.
func Kind() ingest.Kind {
	return ingest.Kind{
		Name:       "git",
		Schemes:    slices.Sorted(maps.Keys(schemes)),
		Open:       Open,
		NewFetcher: func(env ingest.Env) ingest.Fetcher { return NewFetcher(env) },
	}
}

// Source is a watched repository.
type Source struct {
	at       *location
	settings settings
	env      ingest.Env
}

var _ ingest.Source = (*Source)(nil)

// Open returns the repository at a place as a source, and its canonical name.
func Open(_ context.Context, place ingest.Place, env ingest.Env) (ingest.Source, string, error) {
	var s settings
	if err := place.Settings(&s); err != nil {
		return nil, "", err
	}
	l, err := parseURL(place.URL)
	if err != nil {
		return nil, "", err
	}
	if err := s.check(l); err != nil {
		return nil, "", err
	}
	return &Source{at: l, settings: s, env: env}, l.name(), nil
}

// open brings the repository up to date and opens it.
func (l *location) open(ctx context.Context, env ingest.Env) (*repository, error) {
	if l.path != "" {
		return openLocal(l.path)
	}
	return l.mirror(ctx, env.Cache)
}

// errStopped ends a read because the caller wants no more.
var errStopped = errors.New("the caller stopped reading")

// Observe implements ingest.Source.
func (s *Source) Observe(ctx context.Context, from string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		err := s.observe(ctx, from, func(e ingest.Event) error {
			if !yield(e, nil) {
				return errStopped
			}
			return ctx.Err()
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(ingest.Event{}, err)
		}
	}
}

func (s *Source) observe(ctx context.Context, from string, emit func(ingest.Event) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	at, err := parseCursor(from)
	if err != nil {
		return err
	}
	if err := s.settings.authenticate(s.at); err != nil {
		return err
	}
	repo, err := s.at.open(ctx, s.env)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, repo.close()) }()
	signers, err := s.settings.signers()
	if err != nil {
		return err
	}
	r := &reader{repo: repo, at: at, repository: s.at.repository, emit: emit, describer: describer{repo: repo, repository: s.at.repository, signers: signers, pins: newPinReader(repo)}}
	// Finish first what was under way, then look what has changed since. If
	// what it was working towards is gone from the repository, there is nothing
	// to finish: listing the refs tells where they are instead.
	if r.present() {
		if err := r.catchUp(ctx); err != nil {
			return err
		}
	}
	now, err := repo.list(s.at.watches)
	if err != nil {
		return err
	}
	r.want(now)
	if err := r.catchUp(ctx); err != nil {
		return err
	}
	return r.listing()
}

// reader is one read of a repository.
type reader struct {
	repo       *repository
	at         *cursor
	repository string
	describer  describer
	emit       func(ingest.Event) error
	total      int // facts of this read, as far as is known
}

// How much may stand between two cursors before the next commit's is due:
// facts about pins, less than ingest.MaxGroup by those of one commit and by
// stride commits; and bytes of predicates, of which one commit brings no more
// than maxPinBytes and its message, so that a group always fits into a batch.
const (
	maxBetween      = ingest.MaxGroup - schema.MaxPins - 256
	maxBetweenBytes = 1 << 20
)

// want notes which refs are not as they were stated.
func (r *reader) want(now map[string]plumbing.Hash) {
	r.at.Want, r.at.Done, r.at.Chain, r.at.Stated = map[string]string{}, 0, "", false
	for name, h := range now {
		if r.at.Refs[name].Object != h.String() {
			r.at.Want[name] = h.String()
		}
	}
	for name, s := range r.at.Refs {
		if _, ok := now[name]; !ok && s.Object != "" {
			r.at.Want[name] = ""
		}
	}
}

// catchUp states what lies between the refs stated and those wanted: commits,
// then refs.
func (r *reader) catchUp(ctx context.Context) error {
	if len(r.at.Want) == 0 {
		return nil
	}
	r.total += len(r.at.Want)
	if !r.at.Stated {
		if err := r.commits(ctx); err != nil {
			return err
		}
	}
	return r.refs(ctx)
}

// present says whether all objects that are wanted are still here.
func (r *reader) present() bool {
	for _, object := range r.at.Want {
		if object != "" && !r.repo.has(plumbing.NewHash(object)) {
			return false
		}
	}
	return true
}

// commits states the commits that are new, and marks the cursor so.
func (r *reader) commits(ctx context.Context) error {
	todo, err := r.newCommits(ctx)
	if err != nil {
		return err
	}
	r.total += len(todo)
	done, sum := r.resume(todo)
	r.total -= done
	prefix, err := r.at.prefix()
	if err != nil {
		return err
	}
	every := stride(len(prefix))
	between, bytes := 0, 0 // since the last cursor
	for i := done; i < len(todo); i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		pins, event, err := r.commit(todo[i])
		if err != nil {
			return err
		}
		r.total += len(pins)
		for _, s := range pins {
			bytes += len(s.Predicate)
			if err := r.emit(ingest.Event{Statement: s, Total: r.total}); err != nil {
				return err
			}
		}
		between, bytes = between+len(pins), bytes+len(event.Statement.Predicate)
		sum = sum.add(todo[i])
		event.Total = r.total
		if (i+1)%every == 0 || i == len(todo)-1 || between > maxBetween || bytes > maxBetweenBytes {
			event.Cursor, between, bytes = during(prefix, i+1, sum), 0, 0
		}
		if err := r.emit(event); err != nil {
			return err
		}
	}
	r.at.Done, r.at.Chain, r.at.Stated = 0, "", true
	return nil
}

// newCommits are those that can be reached from the refs wanted and not from
// those stated, in the order in which they are stated.
func (r *reader) newCommits(ctx context.Context) ([]plumbing.Hash, error) {
	var tips, known []plumbing.Hash
	for _, name := range slices.Sorted(maps.Keys(r.at.Want)) {
		if r.at.Want[name] == "" {
			continue
		}
		commit, _, err := r.repo.peel(plumbing.NewHash(r.at.Want[name]))
		if odd := (*schema.FieldError)(nil); errors.As(err, &odd) {
			continue // reported with the ref
		}
		if err != nil {
			return nil, fmt.Errorf("ref %s: %w", name, err)
		}
		tips = append(tips, commit)
	}
	for _, name := range slices.Sorted(maps.Keys(r.at.Refs)) {
		old := r.at.Refs[name].commit()
		if h := plumbing.NewHash(old); old != "" && r.repo.has(h) {
			known = append(known, h)
		}
	}
	return r.repo.between(ctx, tips, known)
}

// resume returns how many of the commits to state are stated already. They are
// counted only if they are the same ones: if not, the repository has lost
// objects in between, and they are all given again.
func (r *reader) resume(todo []plumbing.Hash) (int, chain) {
	var sum chain
	if r.at.Done > len(todo) {
		return 0, sum
	}
	for _, h := range todo[:r.at.Done] {
		sum = sum.add(h)
	}
	if r.at.Done > 0 && fmt.Sprintf("%x", sum[:]) != r.at.Chain {
		return 0, chain{}
	}
	return r.at.Done, sum
}

// commit is the event for one commit, and what its files pin that no parent's
// do. An object that is here and makes no statement is skipped.
func (r *reader) commit(h plumbing.Hash) ([]schema.Statement, ingest.Event, error) {
	o, err := r.repo.EncodedObject(plumbing.CommitObject, h)
	if err != nil {
		return nil, ingest.Event{}, fmt.Errorf("reading commit %s: %w", h, err)
	}
	c, err := object.DecodeCommit(r.repo, o)
	if err != nil {
		return nil, skipCommit(h, err), nil
	}
	if c.Hash != h {
		return nil, ingest.Event{}, fmt.Errorf("reading commit %s: the object there hashes to %s", h, c.Hash)
	}
	pins, s, err := r.describer.commit(c, false)
	if odd := (*schema.FieldError)(nil); errors.As(err, &odd) {
		return nil, skipCommit(h, err), nil
	}
	if err != nil {
		return nil, ingest.Event{}, err
	}
	return pins, ingest.Event{Statement: s}, nil
}

func skipCommit(h plumbing.Hash, err error) ingest.Event {
	e := skip("commit "+h.String(), err)
	e.Skipped.Digest = schema.Key(schema.GitCommit + ":" + h.String())
	return e
}

func skip(what string, err error) ingest.Event {
	return ingest.Event{Skipped: &ingest.Skip{Object: what, Reason: err}}
}

// refs states the refs that are wanted, by name.
func (r *reader) refs(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(r.at.Want))
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		event, err := r.ref(ctx, name, r.at.Want[name])
		if err != nil {
			return err
		}
		delete(r.at.Want, name)
		if len(r.at.Want) == 0 {
			r.at.Want, r.at.Stated = nil, false
		}
		event.Total = r.total
		// Encoding the cursor costs as much as there are refs.
		if every := stride(64 * (len(r.at.Refs) + len(names))); (i+1)%every == 0 || i == len(names)-1 {
			if event.Cursor, err = r.at.encode(); err != nil {
				return err
			}
		}
		if err := r.emit(event); err != nil {
			return err
		}
	}
	return nil
}

// ref is the event for one ref that now points at object, "" for nowhere, and
// notes it in the cursor. A ref that leads to no commit is skipped.
func (r *reader) ref(ctx context.Context, name, object string) (ingest.Event, error) {
	before := r.at.Refs[name]
	after := refState{Object: object, Previous: before.Previous}
	change, err := r.change(ctx, name, object)
	var s schema.Statement
	if err == nil && change.commit == "" && before.commit() == "" {
		r.at.Refs[name] = after
		return ingest.Event{}, nil // nothing was ever stated of what is gone now
	}
	if err == nil {
		s, err = change.statement(r.repository)
	}
	if odd := (*schema.FieldError)(nil); errors.As(err, &odd) {
		after.Odd = object != ""
		r.at.Refs[name] = after
		return skip("ref "+name, err), nil
	}
	if err != nil {
		return ingest.Event{}, fmt.Errorf("ref %s: %w", name, err)
	}
	payload, err := s.Encode()
	if err != nil {
		return ingest.Event{}, err
	}
	after.Previous = schema.BytesKey(payload).Hex()
	if change.tag != "" {
		after.Commit = change.commit
	}
	r.at.Refs[name] = after
	return ingest.Event{Statement: s}, nil
}

// change says how the ref moved to object.
func (r *reader) change(ctx context.Context, name, object string) (refChange, error) {
	c := refChange{name: name, before: r.at.Refs[name]}
	if object == "" {
		return c, nil
	}
	commit, tag, err := r.repo.peel(plumbing.NewHash(object))
	if err != nil {
		return c, err
	}
	c.commit = commit.String()
	if tag != plumbing.ZeroHash {
		c.tag = tag.String()
	}
	if old := c.before.commit(); old != "" {
		ok, err := r.repo.descends(ctx, commit, plumbing.NewHash(old))
		if err != nil {
			return c, err
		}
		c.forced = !ok
	}
	return c, nil
}

// listing ends a complete read with what the refs were.
func (r *reader) listing() error {
	refs := map[string]string{}
	for name, s := range r.at.Refs {
		if s.Object != "" {
			refs[name] = s.Object
		}
	}
	raw, err := schema.Canonical(refs)
	if err != nil {
		return err
	}
	return r.emit(ingest.Event{Total: r.total, Listing: &ingest.Listing{Count: len(refs), Digest: schema.BytesKey(raw)}})
}
