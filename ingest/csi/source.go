package csi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// Name is the name of this kind.
const Name = "csi"

// Kind is how ingest/all lists this package.
func Kind() ingest.Kind { return ingest.Kind{Name: Name, Schemes: []string{Name}, Open: open} }

// settings are those of a place.
type settings struct {
	kube.Settings
	Take *Take `json:"take,omitempty"`
}

// open reads csi://CLUSTER[/NAMESPACE]. The cluster is a name for people; where it
// is, the settings say.
func open(_ context.Context, place ingest.Place, env ingest.Env) (ingest.Source, string, error) {
	u, err := url.Parse(place.URL)
	if err != nil || u.Scheme != Name || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Contains(strings.Trim(u.Path, "/"), "/") {
		return nil, "", fmt.Errorf("%q is not the URL of a cluster's volumes: want csi://CLUSTER or csi://CLUSTER/NAMESPACE", place.URL)
	}
	var with settings
	if err := place.Settings(&with); err != nil {
		return nil, "", err
	}
	client, err := kube.NewClient(with.Settings)
	if err != nil {
		return nil, "", ingest.Setting("kubeconfig", err)
	}
	s := &source{client: client, cluster: u.Host, namespace: strings.Trim(u.Path, "/")}
	name := strings.TrimSuffix(Name+"://"+s.cluster+"/"+s.namespace, "/")
	if with.Take == nil {
		return s, name, nil
	}
	t, err := newTaker(s, name, *with.Take, env.Entries)
	if err != nil {
		return nil, "", err
	}
	return t, name, nil
}

type source struct {
	client    *kube.Client
	cluster   string
	namespace string
}

// position is the cursor: what was stated last of each snapshot and claim that is
// there.
type position struct {
	Known map[string]stated `json:"known"` // by KIND/NAMESPACE/NAME
	// Odd are the objects that were left out, with a short digest of why: each is
	// said once.
	Odd map[string]string `json:"odd,omitempty"`
}

// stated is a short digest of a state, the sha256 of the statement of it, and what
// has to be said again when it is gone.
type stated struct {
	State     string `json:"s"`
	Statement string `json:"p"`
	URI       string `json:"u,omitempty"` // of a snapshot
	Claim     string `json:"c,omitempty"` // of a snapshot: the name of the claim; of a claim: a short digest of its UID
}

// maxOdd is how many odd objects are remembered; beyond, they are said again at
// each read. maxPosition bounds the cursor, which every commit holds.
const (
	maxOdd      = 256
	maxPosition = 1_000_000 // bytes
)

func parsePosition(s string) (position, error) {
	p := position{Known: map[string]stated{}}
	if s == "" {
		return p, nil
	}
	err := json.Unmarshal([]byte(s), &p, json.RejectUnknownMembers(true))
	if err == nil && p.Known == nil {
		err = errors.New("it names no snapshots")
	}
	for id, known := range p.Known {
		if _, keyErr := schema.ParseKey(schema.SHA256 + ":" + known.Statement); err == nil && (keyErr != nil || strings.Count(id, "/") != 2) {
			err = fmt.Errorf("%q is nothing that was stated", id)
		}
	}
	if err != nil {
		return p, fmt.Errorf("%.100q is not a cursor of volumes: %w", s, err)
	}
	return p, nil
}

func (p position) encode() (string, error) {
	raw, err := schema.Canonical(p)
	if err == nil && len(raw) > maxPosition {
		err = fmt.Errorf("there are %d snapshots and restored claims, which is too much for one source: watch the namespaces one by one (csi://CLUSTER/NAMESPACE)", len(p.Known))
	}
	return string(raw), err
}

// chunk is how many statements are given between cursors, each of which holds all
// that is known.
const chunk = 256

// Observe implements ingest.Source.
func (s *source) Observe(ctx context.Context, from string) iter.Seq2[ingest.Event, error] {
	return func(yield func(ingest.Event, error) bool) {
		if err := s.observe(ctx, from, func(e ingest.Event) bool { return yield(e, nil) }); err != nil {
			yield(ingest.Event{}, err)
		}
	}
}

func (s *source) observe(ctx context.Context, from string, yield func(ingest.Event) bool) error {
	at, err := parsePosition(from)
	if err != nil {
		return err
	}
	now, err := s.read(ctx)
	if err != nil {
		return err
	}
	states := s.states(now, &at)
	for _, odd := range at.leave(now.odd) {
		if !yield(ingest.Event{Skipped: &odd}) {
			return nil
		}
	}
	changes := at.changes(states)
	for i, id := range changes {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, err := s.state(&at, id, states[id])
		if err != nil {
			return fmt.Errorf("describing %s: %w", id, err)
		}
		e := ingest.Event{Statement: st}
		if (i+1)%chunk == 0 || i+1 == len(changes) || len(changes) <= chunk {
			if e.Cursor, err = at.encode(); err != nil {
				return err
			}
		}
		if !yield(e) {
			return nil
		}
	}
	last := ingest.Event{Listing: listing(states)}
	if last.Cursor, err = at.encode(); err != nil {
		return err
	}
	yield(last)
	return nil
}

// leave notes which objects are odd, and returns those that were not before, or
// for another reason.
func (p *position) leave(odd map[string]ingest.Skip) []ingest.Skip {
	next, fresh := map[string]string{}, []ingest.Skip{}
	for _, object := range slices.Sorted(maps.Keys(odd)) {
		why := short(odd[object].Reason.Error())
		if p.Odd[object] != why {
			fresh = append(fresh, odd[object])
		}
		if len(next) < maxOdd {
			next[object] = why
		}
	}
	p.Odd = next
	return fresh
}

// changes are what to state: what is not as it was stated, and what is gone, in
// the order of their ids.
func (p *position) changes(states map[string]*state) []string {
	var ids []string
	for id, st := range states {
		if known, ok := p.Known[id]; !ok || known.State != st.digest() {
			ids = append(ids, id)
		}
	}
	for id := range p.Known {
		if states[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// state makes the statement about a snapshot or a claim, nil for one that is gone,
// and notes it in the cursor.
func (s *source) state(at *position, id string, now *state) (schema.Statement, error) {
	known := at.Known[id]
	if now == nil {
		now = s.gone(id, known)
	} else if _, ok := at.Known[id]; !ok && now.snapshot != nil {
		now.snapshot.Volume.Pods = now.pods
	}
	st, err := now.statement(known.Statement)
	if err != nil {
		return st, err
	}
	payload, err := st.Encode()
	if err != nil {
		return st, err
	}
	if now.deleted() {
		delete(at.Known, id)
	} else {
		at.Known[id] = stated{State: now.digest(), Statement: schema.BytesKey(payload).Hex(), URI: now.uri(), Claim: now.of}
	}
	return st, nil
}

// listing sums up what there is.
func listing(states map[string]*state) *ingest.Listing {
	h := sha256.New()
	for _, id := range slices.Sorted(maps.Keys(states)) {
		fmt.Fprintf(h, "%s\x00%s\n", id, states[id].digest())
	}
	return &ingest.Listing{Count: len(states), Digest: schema.Key(schema.SHA256 + ":" + hex.EncodeToString(h.Sum(nil)))}
}

// short is a digest of a text, to tell it from others of one object.
func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}
