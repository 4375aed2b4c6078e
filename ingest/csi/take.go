package csi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/keep"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/schema"
)

// Take is what a source is asked to take, and to keep of it.
type Take struct {
	// Every is how often a snapshot is taken of a claim that is in use, such as
	// "10m". Empty for never.
	Every string `json:"every,omitempty"`
	// AfterSteps has one taken when a pod that could write to the claim has ended.
	AfterSteps bool `json:"afterSteps,omitzero"`
	// Class is the VolumeSnapshotClass. Its deletion policy has to be Retain.
	Class string `json:"class"`
	// Keep are the rules by which those taken stay; without any, all do.
	Keep *keep.Rules `json:"keep,omitempty"`
}

// What retrace writes on the snapshots that it takes, and what it asks for.
const (
	wantLabel       = "retrace.dev/snapshot"         // of a claim: "true" opts in
	managedLabel    = "app.kubernetes.io/managed-by" // retrace
	ownerLabel      = "retrace.dev/owner"            // which ledger
	reasonAnnotated = "retrace.dev/reason"
	runAnnotation   = "retrace.dev/run" // of the step after whose end it was taken
)

// afterReason begins the reason of one that was taken when a pod had ended.
const afterReason = "after pod "

// leastEvery is how often a snapshot may be taken at most.
const leastEvery = time.Minute

// taker is a source that takes snapshots too. Take is for one goroutine at a
// time, beside one that observes.
type taker struct {
	*source
	name  string // of the source
	take  Take
	every time.Duration
	book  book
	idle  map[string]bool // claims, by UID, of which one was taken since anybody could write to them
}

func newTaker(s *source, name string, take Take, entries ingest.Entries) (*taker, error) {
	t := &taker{source: s, name: name, take: take, idle: map[string]bool{}}
	if take.Every != "" {
		var err error
		if t.every, err = time.ParseDuration(take.Every); err != nil || t.every < leastEvery || t.every%time.Second != 0 {
			return nil, ingest.Setting("take.every", fmt.Errorf("%q is not a span of whole seconds, and at least %s", take.Every, leastEvery))
		}
	}
	switch {
	case t.every == 0 && !take.AfterSteps:
		return nil, ingest.Setting("take", errors.New("it takes nothing: want every or afterSteps"))
	case take.Class == "":
		return nil, ingest.Setting("take.class", errors.New("missing: name the VolumeSnapshotClass, whose deletionPolicy has to be Retain"))
	}
	if take.Keep != nil {
		if err := take.Keep.Check(); err != nil {
			return nil, ingest.Setting("take.keep", err)
		}
	}
	t.book.entries = entries
	return t, nil
}

var _ ingest.Taker = (*taker)(nil)

// Take implements ingest.Taker.
func (t *taker) Take(ctx context.Context, now time.Time, record func(context.Context, schema.Statement) error) error {
	if err := t.book.follow(ctx); err != nil {
		return err
	}
	c, err := t.read(ctx)
	if err != nil {
		return err
	}
	var wanted []*claim
	for _, v := range c.claims {
		if v.object.Meta.Labels[wantLabel] == "true" {
			wanted = append(wanted, v)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	if ok, err := t.retains(ctx); err != nil || !ok {
		return err
	}
	var failed []error
	for _, v := range wanted {
		r := &round{taker: t, cluster: c, claim: v, now: now, record: record}
		if err := r.run(ctx); err != nil {
			failed = append(failed, fmt.Errorf("claim %s/%s: %w", v.object.Meta.Namespace, v.object.Meta.Name, err))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// retains checks the class: the bytes of a snapshot must not go with the object,
// which anybody may delete who may edit the namespace. It reports false where
// snapshots are not installed.
func (t *taker) retains(ctx context.Context) (bool, error) {
	o, err := t.client.Get(ctx, kube.VolumeSnapshotClasses, "", t.take.Class)
	if errors.Is(err, kube.ErrNotFound) {
		installed, err := t.client.Serves(ctx, kube.VolumeSnapshots)
		if err == nil && installed {
			err = fmt.Errorf("there is no VolumeSnapshotClass %s (with.take.class)", t.take.Class)
		}
		return false, err
	}
	if err != nil {
		return false, err
	}
	var class struct {
		Policy string `json:"deletionPolicy"`
	}
	if err := json.Unmarshal(o.Raw, &class); err != nil {
		return false, fmt.Errorf("reading the VolumeSnapshotClass %s: %w", t.take.Class, err)
	}
	if class.Policy != schema.PolicyRetain {
		return false, fmt.Errorf("the VolumeSnapshotClass %s has the deletionPolicy %q: whoever deletes a VolumeSnapshot, or its namespace, would delete what the ledger refers to; name a class with Retain", t.take.Class, class.Policy)
	}
	return true, nil
}

// round is what is done about one claim.
type round struct {
	*taker
	cluster *cluster
	claim   *claim
	now     time.Time
	record  func(context.Context, schema.Statement) error

	of  []*kube.VolumeSnapshot // of the claim
	own []*kube.VolumeSnapshot // of these, those that say they are this ledger's
}

func (r *round) run(ctx context.Context) error {
	m := &r.claim.object.Meta
	for _, v := range r.cluster.snapshots {
		if v.Object.Meta.Namespace == m.Namespace && v.Claim == m.Name {
			r.of = append(r.of, v)
			if v.Object.Meta.Labels[ownerLabel] == r.book.owner {
				r.own = append(r.own, v)
			}
		}
	}
	return errors.Join(r.afterStep(ctx), r.periodic(ctx), r.sweep(ctx))
}

// writers are the pods that could write to the claim.
func (r *round) writers() []*pod {
	m := &r.claim.object.Meta
	return slices.DeleteFunc(slices.Clone(r.cluster.mounts[m.Namespace+"/"+m.Name]), func(p *pod) bool { return p.claims[m.Name] })
}

func (r *round) active() bool {
	return slices.ContainsFunc(r.writers(), func(p *pod) bool { return p.active })
}

// last is when the newest snapshot of the claim that is ours was asked for, for a
// reason that begins so.
func (r *round) last(reason string) time.Time {
	var last time.Time
	for _, v := range r.own {
		m := &v.Object.Meta
		if at, err := time.Parse(time.RFC3339, m.CreationTimestamp); err == nil && at.After(last) && strings.HasPrefix(m.Annotations[reasonAnnotated], reason) {
			last = at
		}
	}
	return last
}

// pending is how many of the claim's own snapshots are not there yet.
func (r *round) pending() int {
	n := 0
	for _, v := range r.own {
		if !v.Ready {
			n++
		}
	}
	return n
}

// maxPending is up to how many snapshots of one claim that are not there yet
// another is asked for when a step has ended.
const maxPending = 4

// afterStep takes what the pod left that ended last, if nothing was taken since.
func (r *round) afterStep(ctx context.Context) error {
	if !r.take.AfterSteps {
		return nil
	}
	var ended *pod
	for _, p := range r.writers() {
		if p.ended && (ended == nil || p.end.After(ended.end) || p.end.Equal(ended.end) && p.meta.UID > ended.meta.UID) {
			ended = p
		}
	}
	if ended == nil {
		return nil
	}
	name := r.nameFor("pod " + ended.meta.UID)
	if r.named(name) == nil {
		// The pods stay for a while: what was taken and is gone by now is not taken
		// again, nor what a pod left that ended before another of which it was.
		before := r.book.names[ended.meta.Namespace+"/"+name] || !ended.end.IsZero() && r.last(afterReason).After(ended.end)
		if before || r.pending() >= maxPending {
			return nil
		}
	}
	run := ended.run
	if r.active() { // what is there may be another's by now
		run = ""
	}
	return r.ask(ctx, name, afterReason+ended.meta.Namespace+"/"+ended.meta.Name, run)
}

// periodic takes one in each span of time, as long as anybody can write to the
// claim, and one after that.
func (r *round) periodic(ctx context.Context) error {
	uid := r.claim.object.Meta.UID
	active := r.active()
	since := r.last("")
	if active || slices.ContainsFunc(r.writers(), func(p *pod) bool { return p.end.After(since) }) {
		delete(r.idle, uid)
	}
	if r.every == 0 || r.idle[uid] {
		return nil
	}
	name := r.nameFor("slot " + strconv.FormatInt(r.now.Unix()/int64(r.every/time.Second), 10))
	if r.named(name) == nil && r.pending() > 0 {
		for _, v := range r.own {
			if v.Failed && !v.Ready {
				return fmt.Errorf("the snapshot %s has failed, and until it is there, or deleted, no other is taken: %s", v.Object.Meta.Name, message(v.Error))
			}
		}
		return nil
	}
	if err := r.ask(ctx, name, "every "+r.every.String(), ""); err != nil {
		return err
	}
	if !active {
		r.idle[uid] = true
	}
	return nil
}

// maxName is how long the part of a name may be that says of which claim it is:
// the whole is short enough for a label, too (63 characters).
const maxName = 36

// nameFor is the name of the snapshot of the claim for some occasion: the same
// from every process that takes it.
func (r *round) nameFor(occasion string) string {
	m := &r.claim.object.Meta
	sum := sha256.Sum256([]byte(r.book.owner + "\n" + m.UID + "\n" + occasion))
	return "retrace-" + strings.Trim(m.Name[:min(len(m.Name), maxName)], "-.") + "-" + hex.EncodeToString(sum[:8])
}

// named is the snapshot of the claim with a name, if it is ours.
func (r *round) named(name string) *kube.VolumeSnapshot {
	i := slices.IndexFunc(r.own, func(v *kube.VolumeSnapshot) bool { return v.Object.Meta.Name == name })
	if i < 0 {
		return nil
	}
	return r.own[i]
}

// ask asks for a snapshot unless it was asked for, and has it recorded unless it
// is.
func (r *round) ask(ctx context.Context, name, reason, run string) error {
	if v := r.named(name); v != nil {
		return r.taken(ctx, v.Object)
	}
	m := &r.claim.object.Meta
	annotations := map[string]any{reasonAnnotated: reason}
	if run != "" {
		annotations[runAnnotation] = run
	}
	o, err := r.client.Create(ctx, kube.VolumeSnapshots, m.Namespace, map[string]any{
		"apiVersion": kube.VolumeSnapshots.Group + "/" + kube.VolumeSnapshots.Version, "kind": kube.VolumeSnapshots.Kind,
		"metadata": map[string]any{
			"name": name, "annotations": annotations,
			"labels": map[string]any{managedLabel: "retrace", ownerLabel: r.book.owner},
		},
		"spec": map[string]any{"volumeSnapshotClassName": r.take.Class, "source": map[string]any{"persistentVolumeClaimName": m.Name}},
	})
	if kube.Exists(err) { // another process was faster, or it is not ours
		if o, err = r.client.Get(ctx, kube.VolumeSnapshots, m.Namespace, name); err != nil {
			return err
		}
		v, err := kube.ParseVolumeSnapshot(o)
		if err != nil {
			return err
		}
		if v.Claim != m.Name || o.Meta.Labels[ownerLabel] != r.book.owner {
			return fmt.Errorf("there is a VolumeSnapshot %s that this ledger did not ask for; it is left alone", name)
		}
	} else if err != nil {
		return fmt.Errorf("asking for a snapshot: %w", err)
	}
	return r.taken(ctx, o)
}

// taken records that a snapshot was asked for. Every process states it in the same
// words.
func (r *round) taken(ctx context.Context, o kube.Object) error {
	if _, ok := r.book.taken[o.Meta.UID]; ok {
		return nil
	}
	p := schema.Taking{
		Action: schema.TakingTake, Reason: o.Meta.Annotations[reasonAnnotated], Run: o.Meta.Annotations[runAnnotation],
	}
	if p.Reason == "" {
		p.Reason = "not said"
	}
	if err := r.state(ctx, p, o); err != nil {
		return fmt.Errorf("recording that the snapshot %s was asked for: %w", o.Meta.Name, err)
	}
	return nil
}

func (r *round) state(ctx context.Context, p schema.Taking, o kube.Object) error {
	m := &r.claim.object.Meta
	p.Source, p.Name, p.UID, p.Claim, p.Owner = r.name, o.Meta.Namespace+"/"+o.Meta.Name, o.Meta.UID, claimURI(m.Namespace, m.Name), r.book.owner
	st, err := describe(schema.TakingV1, "taking:"+p.Name, p)
	if err != nil {
		return err
	}
	return r.record(ctx, st)
}

// grace is how long one that was taken after a step stays whatever the rules say:
// a pipeline is recorded when it has ended, and says then what it needs.
const grace = 7 * 24 * time.Hour

// sweep deletes those of the claim that no rule keeps and nobody needs. While one
// is not there yet, none goes.
func (r *round) sweep(ctx context.Context) error {
	if r.take.Keep == nil || slices.ContainsFunc(r.of, func(v *kube.VolumeSnapshot) bool { return !v.Ready }) {
		return nil
	}
	var ours []*kube.VolumeSnapshot
	var times []time.Time
	for _, v := range r.own {
		if _, ok := r.book.taken[v.Object.Meta.UID]; ok && v.Object.Meta.Labels[managedLabel] == "retrace" {
			ours, times = append(ours, v), append(times, v.Created)
		}
	}
	newest := slices.MaxFunc(append([]time.Time{{}}, times...), time.Time.Compare)
	var failed []error
	for i, kept := range r.take.Keep.Kept(times) {
		after := r.book.taken[ours[i].Object.Meta.UID].Run != ""
		if len(kept) > 0 || times[i].Equal(newest) || r.cluster.restored(ours[i]) || after && r.now.Sub(times[i]) < grace {
			continue
		}
		if err := r.remove(ctx, ours[i].Object); err != nil {
			failed = append(failed, fmt.Errorf("snapshot %s: %w", ours[i].Object.Meta.Name, err))
		}
	}
	return errors.Join(failed...)
}

// restored says whether a claim that is there was made from the snapshot.
func (c *cluster) restored(v *kube.VolumeSnapshot) bool {
	m := &v.Object.Meta
	return slices.ContainsFunc(c.claims, func(x *claim) bool {
		return x.from.Kind == kube.VolumeSnapshots.Kind && x.from.Name == m.Name && cmp.Or(x.from.Namespace, x.object.Meta.Namespace) == m.Namespace
	})
}

// remove deletes a snapshot that this ledger took, with its bytes. All that it
// rests on is read anew.
func (r *round) remove(ctx context.Context, seen kube.Object) error {
	o, err := r.client.Get(ctx, kube.VolumeSnapshots, seen.Meta.Namespace, seen.Meta.Name)
	if errors.Is(err, kube.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	v, err := kube.ParseVolumeSnapshot(o)
	if err != nil {
		return err
	}
	if o.Meta.UID != seen.Meta.UID || !v.Ready || v.Content == "" {
		return nil // another one by now
	}
	content, err := r.client.Get(ctx, kube.VolumeSnapshotContents, "", v.Content)
	if err != nil {
		return err
	}
	c, err := kube.ParseVolumeSnapshotContent(content)
	if err != nil {
		return err
	}
	if err := v.Bound(c); err != nil {
		return fmt.Errorf("not deleted: %w", err)
	}
	if err := r.book.follow(ctx); err != nil {
		return err
	}
	if r.book.needs(cmp.Or(c.URI(), v.Name()), v.Name(), r.book.taken[o.Meta.UID].Run) {
		return nil
	}
	p := schema.Taking{Action: schema.TakingDelete, Reason: "not among " + r.take.Keep.String(), URI: c.URI()}
	if err := r.state(ctx, p, o); err != nil {
		return fmt.Errorf("recording that it is deleted: %w", err)
	}
	// With the policy Retain the driver would keep the bytes, and nobody would
	// know of them any more.
	if c.Policy != schema.PolicyDelete {
		if _, err := r.client.Patch(ctx, content, map[string]any{"spec": map[string]any{"deletionPolicy": schema.PolicyDelete}}); err != nil {
			return fmt.Errorf("having the driver delete the bytes: %w", err)
		}
	}
	return r.client.Delete(ctx, o)
}
