package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// optIn is the label of claims that snapshots are taken of.
var optIn = map[string]string{wantLabel: "true"}

// class installs a VolumeSnapshotClass.
func (w *world) class(t *testing.T, name, policy string) {
	t.Helper()
	_, err := server.Request(t.Context(), "POST", group+"/volumesnapshotclasses", "application/json", []byte(fmt.Sprintf(
		`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotClass","metadata":{"name":%q},"driver":%q,"deletionPolicy":%q}`, name, driverName, policy)))
	if err != nil && !strings.Contains(err.Error(), "AlreadyExists") {
		t.Fatal(err)
	}
}

// keeper is a source that takes snapshots, with the ledger that it does it for.
type keeper struct {
	*world
	book  *ledgertest.World
	taker ingest.Taker
}

func newKeeper(t *testing.T, w *world, book *ledgertest.World, take map[string]any) *keeper {
	t.Helper()
	w.class(t, "retain", schema.PolicyRetain)
	if take["class"] == nil {
		take["class"] = "retain"
	}
	taker, ok := w.open(t, take, book.Ledger).(ingest.Taker)
	if !ok {
		t.Fatal("a source that is asked to take snapshots is no taker")
	}
	return &keeper{w, book, taker}
}

func (k *keeper) append(t *testing.T, envelopes ...schema.Envelope) {
	t.Helper()
	if _, err := k.book.Ledger.Append(context.Background(), schema.Batch{Namespace: schema.DefaultNamespace, Source: "test", Envelopes: envelopes}); err != nil {
		t.Fatal(err)
	}
}

func (k *keeper) record(ctx context.Context, s schema.Statement) error {
	env, err := k.book.Observer.SignStatement(s)
	if err != nil {
		return err
	}
	_, err = k.book.Ledger.Append(ctx, schema.Batch{Namespace: schema.DefaultNamespace, Source: "take", Envelopes: []schema.Envelope{env}})
	return err
}

// at takes what is due at a time, some minutes after ten o'clock.
func (k *keeper) at(t *testing.T, minutes int) error {
	t.Helper()
	return k.taker.Take(t.Context(), time.Date(2026, 8, 1, 10, minutes, 0, 0, time.UTC), k.record)
}

// must is at where nothing may fail; the driver then does its part.
func (k *keeper) must(t *testing.T, minutes int) {
	t.Helper()
	if err := k.at(t, minutes); err != nil {
		t.Fatalf("at 10:%02d: %v", minutes, err)
	}
	k.drive(t)
}

// there are the snapshots of a claim, as "reason handle", in the order in which
// they were taken.
func (w *world) there(t *testing.T, claim string) []string {
	t.Helper()
	handles := map[string]string{}
	for _, c := range w.list(t, group+"/volumesnapshotcontents") {
		handles[c.Metadata.Name] = c.Status.Handle
	}
	all := []string{}
	for _, o := range w.list(t, w.path("volumesnapshots")) {
		if o.Spec.Source.Claim == claim {
			all = append(all, strings.TrimSpace(handles[o.Status.Content]+" "+strings.ReplaceAll(o.Metadata.Annotations[reasonAnnotated], w.namespace, "NS")))
		}
	}
	slices.Sort(all)
	return all
}

// takings is what the ledger says was done, in order.
func (k *keeper) takings(t *testing.T) []string {
	t.Helper()
	all := []string{}
	for e, err := range k.book.Ledger.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		st, err := e.Envelope.Statement()
		if err != nil || st.PredicateType != schema.TakingV1 {
			continue
		}
		var p schema.Taking
		if err := schema.DecodePredicate(st, true, &p); err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(p.Action+" "+strings.TrimPrefix(p.Claim, "pvc://"+k.namespace+"/")+" "+strings.ReplaceAll(p.Reason, k.namespace, "NS")+" "+p.URI+p.Run))
	}
	return all
}

func (w *world) want(t *testing.T, what, claim string, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if diff := cmp.Diff(want, w.there(t, claim)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestTakePeriodic takes a snapshot in each span of time of a claim that is
// labelled so and in use, one when it is in use no more, and none of others. Two
// processes and a restart take none twice.
func TestTakePeriodic(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	k := newKeeper(t, w, book, map[string]any{"every": "10m"})
	replica := newKeeper(t, w, book, map[string]any{"every": "10m"})
	w.claim(t, "raw", optIn, nil, nil)
	w.claim(t, "other", nil, nil, nil)
	w.claim(t, "no", map[string]string{wantLabel: "false"}, nil, nil)
	for _, claim := range []string{"raw", "other", "no"} {
		w.pod(t, "nb-"+claim, claim, "Running", time.Time{}, nil)
	}
	k.must(t, 0)
	w.want(t, "at first", "raw", "snap-01 every 10m0s")
	k.must(t, 9)
	replica.must(t, 9)
	w.want(t, "within the span, from another process", "raw", "snap-01 every 10m0s")
	if err := errors.Join(replica.at(t, 10), k.at(t, 10)); err != nil {
		t.Fatal(err)
	}
	w.drive(t)
	newKeeper(t, w, book, map[string]any{"every": "10m"}).must(t, 11)
	w.want(t, "in the next span, after a restart", "raw", "snap-01 every 10m0s", "snap-02 every 10m0s")
	w.phase(t, "nb-raw", "Succeeded", time.Now())
	k.must(t, 20)
	k.must(t, 30)
	k.must(t, 40)
	w.want(t, "when nobody can write any more", "raw", "snap-01 every 10m0s", "snap-02 every 10m0s", "snap-03 every 10m0s")
	w.pod(t, "nb-again", "raw", "Running", time.Time{}, nil)
	k.must(t, 50)
	w.want(t, "when somebody can again", "raw", "snap-01 every 10m0s", "snap-02 every 10m0s", "snap-03 every 10m0s", "snap-04 every 10m0s")
	w.want(t, "without the label", "other")
	w.want(t, "with another value", "no")
	if got := k.takings(t); len(got) != 4 || got[0] != "take raw every 10m0s" {
		t.Errorf("recorded: %q", got)
	}
	server.Do(t, "PATCH", w.path("persistentvolumeclaims")+"/raw", map[string]any{"metadata": map[string]any{"labels": map[string]any{wantLabel: nil}}})
	k.must(t, 59)
	if n := len(w.there(t, "raw")); n != 4 {
		t.Errorf("%d snapshots when the label was taken off, want 4", n)
	}
	// What watching says of them is whose they are.
	cursor := ""
	if said := w.look(t, w.open(t, nil, nil), &cursor); len(said) != 4 || !strings.Contains(said[0], "located pvc://NS/raw") {
		t.Errorf("watched: %q", said)
	}
}

// TestTakeBusy takes no other while one is not there yet, and says why where one
// has failed.
func TestTakeBusy(t *testing.T) {
	w := newWorld(t)
	k := newKeeper(t, w, ledgertest.New(t), map[string]any{"every": "10m"})
	w.claim(t, "raw", optIn, nil, nil)
	w.pod(t, "nb", "raw", "Running", time.Time{}, nil)
	w.slow = true
	k.must(t, 0)
	k.must(t, 10)
	w.want(t, "while the driver is slow", "raw", "every 10m0s")
	w.status(t, w.list(t, w.path("volumesnapshots"))[0].Metadata.Name, map[string]any{"readyToUse": false, "error": map[string]any{"message": "quota exceeded"}})
	if err := k.at(t, 20); err == nil || !strings.Contains(err.Error(), "has failed") || !strings.Contains(err.Error(), "quota exceeded") {
		t.Errorf("when it has failed: %v", err)
	}
	w.slow = false
	w.drive(t)
	k.must(t, 30)
	w.want(t, "when it is there after all", "raw", "snap-01 every 10m0s", "snap-02 every 10m0s")
}

// TestTakeAfterSteps takes what the pod of a step left when it has ended, once.
func TestTakeAfterSteps(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	k := newKeeper(t, w, book, map[string]any{"afterSteps": true})
	long := strings.Repeat("a-very-long.name-", 14) + "z" // 239 characters
	w.claim(t, "raw", optIn, nil, nil)
	w.claim(t, long, optIn, nil, nil)
	w.claim(t, "other", nil, nil, nil)
	ended := time.Now().Add(-time.Hour)
	step := map[string]string{"workflows.argoproj.io/workflow-uid": "W", "workflows.argoproj.io/node-id": "N"}
	w.pod(t, "prepare", "raw", "Running", time.Time{}, step)
	k.must(t, 0)
	w.want(t, "while it runs", "raw")
	w.phase(t, "prepare", "Succeeded", ended)
	w.pod(t, "elsewhere", "other", "Succeeded", ended, step)
	w.pod(t, "long", long, "Failed", ended, nil)
	k.must(t, 1)
	k.must(t, 2)
	newKeeper(t, w, book, map[string]any{"afterSteps": true}).must(t, 3)
	w.want(t, "when it has ended", "raw", "snap-02 after pod NS/prepare")
	w.want(t, "of a claim with a long name", long, "snap-01 after pod NS/long")
	w.want(t, "without the label", "other")
	// The next one began, so that what is there may be its own.
	w.pod(t, "train", "raw", "Succeeded", ended.Add(time.Minute), step)
	server.Do(t, "DELETE", w.path("pods")+"/train", map[string]any{"gracePeriodSeconds": 0})
	w.pod(t, "late", "raw", "Succeeded", ended.Add(time.Minute*90), step)
	w.pod(t, "beside", "raw", "Running", time.Time{}, nil)
	k.must(t, 4)
	if got := w.there(t, "raw"); len(got) != 2 || got[1] != "snap-03 after pod NS/late" {
		t.Errorf("after another step: %q", got)
	}
	name := regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
	for _, o := range w.list(t, w.path("volumesnapshots")) {
		if len(o.Metadata.Name) > 63 || !name.MatchString(o.Metadata.Name) || o.Metadata.Labels[managedLabel] != "retrace" {
			t.Errorf("the snapshot %s (%d characters) is labelled %v", o.Metadata.Name, len(o.Metadata.Name), o.Metadata.Labels)
		}
	}
	want := []string{
		"take " + long + " after pod NS/long", "take raw after pod NS/prepare W/N",
		"take raw after pod NS/late", // beside a pod that may have written since
	}
	got := k.takings(t)
	slices.Sort(got[:min(2, len(got))])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
}

// TestTakeAfterCleanup takes nothing anew when pods, or snapshots, are removed.
func TestTakeAfterCleanup(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	k := newKeeper(t, w, book, map[string]any{"afterSteps": true})
	w.claim(t, "raw", optIn, nil, nil)
	ended := time.Now().Add(-time.Hour)
	w.pod(t, "early", "raw", "Succeeded", ended, nil)
	w.pod(t, "late", "raw", "Succeeded", ended.Add(time.Minute), nil)
	k.must(t, 0)
	w.want(t, "of two that ended, after the last", "raw", "snap-01 after pod NS/late")
	server.Do(t, "DELETE", w.path("pods")+"/late", map[string]any{"gracePeriodSeconds": 0})
	k.must(t, 1)
	w.want(t, "when the last is removed", "raw", "snap-01 after pod NS/late")
	w.pod(t, "last", "raw", "Succeeded", time.Now().Add(time.Minute), nil)
	k.must(t, 2)
	for _, o := range w.list(t, w.path("volumesnapshots")) {
		server.Do(t, "DELETE", w.path("volumesnapshots")+"/"+o.Metadata.Name, nil)
	}
	k.must(t, 3)
	w.want(t, "when somebody deleted what was taken", "raw")
}

// TestKeep deletes by the rules what it took itself, and the bytes with it: not
// what others took or labelled so, not what anything recorded needs, not what a
// claim was restored from, and nothing while one is not there.
func TestKeep(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	take := map[string]any{"every": "1m", "keep": map[string]any{"last": 2}}
	k := newKeeper(t, w, book, take)
	w.claim(t, "raw", optIn, nil, nil)
	w.pod(t, "nb", "raw", "Running", time.Time{}, nil)
	k.must(t, 0)
	owner := w.list(t, w.path("volumesnapshots"))[0].Metadata.Labels[ownerLabel]

	// By somebody else; with our labels; and by a ledger of its own, with its rules.
	w.snapshot(t, "foreign", "raw", nil)
	w.snapshot(t, "forged", "raw", map[string]string{managedLabel: "retrace", ownerLabel: owner})
	w.drive(t)
	other := newKeeper(t, w, ledgertest.New(t), map[string]any{"every": "1m", "keep": map[string]any{"last": 1}})
	other.must(t, 0)
	other.must(t, 1)
	other.must(t, 2) // sees two, of which one goes
	if n := len(w.held); n != 5 {
		t.Fatalf("the driver holds %d snapshots, want 5: %v", n, w.held)
	}

	// Recorded as what a model was made from.
	k.append(t, stepOver(t, book, "csi://"+driverName+"/snap-01"))
	for minute := 1; minute <= 3; minute++ {
		k.must(t, minute)
	}
	w.claim(t, "restored", nil, map[string]any{"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": nameAt(t, w, owner, 1)}, nil)
	for minute := 4; minute <= 8; minute++ {
		k.must(t, minute)
	}
	k.must(t, 8) // nothing is due: what the driver had to do
	own := w.owned(t, owner)
	want := []string{"snap-01 every 1m0s", "snap-03", "snap-08 every 1m0s", "snap-13 every 1m0s", "snap-14 every 1m0s"}
	if diff := cmp.Diff(want, own); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	for _, handle := range []string{"snap-01", "snap-02", "snap-03", "snap-06", "snap-08", "snap-13", "snap-14"} {
		if !w.held[handle] {
			t.Errorf("the driver does not have %s any more", handle)
		}
	}
	if w.held["snap-07"] || w.held["snap-09"] {
		t.Errorf("the driver still holds what no rule keeps: %v", w.held)
	}
	if got := k.takings(t); !slices.Contains(got, "delete raw not among {\"last\":2} csi://"+driverName+"/snap-09") {
		t.Errorf("recorded: %q", got)
	}

	// While any snapshot of the claim is not there, none goes.
	k.must(t, 9) // one more than the rules keep
	w.slow = true
	w.snapshot(t, "waiting", "raw", nil)
	k.must(t, 10)
	if !slices.Contains(w.owned(t, owner), "snap-13 every 1m0s") {
		t.Errorf("one was deleted while another was waited for: %q", w.owned(t, owner))
	}
	w.slow = false
	w.drive(t)
	k.must(t, 10)
	if got := w.owned(t, owner); len(got) != len(want) || slices.Contains(got, "snap-13 every 1m0s") {
		t.Errorf("kept when none is waited for: %q", got)
	}
}

// TestKeepUnlabelled leaves alone what somebody took the label off.
func TestKeepUnlabelled(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	k := newKeeper(t, w, book, map[string]any{"every": "1m", "keep": map[string]any{"last": 1}})
	w.claim(t, "raw", optIn, nil, nil)
	w.pod(t, "nb", "raw", "Running", time.Time{}, nil)
	k.must(t, 0)
	name := w.list(t, w.path("volumesnapshots"))[0].Metadata.Name
	server.Do(t, "PATCH", w.path("volumesnapshots")+"/"+name, map[string]any{"metadata": map[string]any{"labels": map[string]any{ownerLabel: nil}}})
	for minute := 1; minute <= 3; minute++ {
		k.must(t, minute)
	}
	k.must(t, 3)
	w.want(t, "one whose label was taken off, and the last", "raw", "snap-01 every 1m0s", "snap-04 every 1m0s")
}

// TestKeepForeignContent has one of ours name the content of another's: it is not
// deleted, nor is the other's content touched.
func TestKeepForeignContent(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	k := newKeeper(t, w, book, map[string]any{"every": "1m", "keep": map[string]any{"last": 1}})
	w.claim(t, "raw", optIn, nil, nil)
	w.pod(t, "nb", "raw", "Running", time.Time{}, nil)
	victim := w.snapshot(t, "victim", "another", nil)
	w.drive(t)
	k.must(t, 0)
	first := w.list(t, w.path("volumesnapshots"))
	name := first[slices.IndexFunc(first, func(o object) bool { return o.Spec.Source.Claim == "raw" })].Metadata.Name
	w.status(t, name, map[string]any{"boundVolumeSnapshotContentName": "snapcontent-" + victim.Metadata.UID})
	k.must(t, 1)
	if err := k.at(t, 2); err == nil || !strings.Contains(err.Error(), "does not name it back") {
		t.Errorf("deleting one that names the content of another's: %v", err)
	}
	content := decode(t, server.Do(t, "GET", group+"/volumesnapshotcontents/snapcontent-"+victim.Metadata.UID, nil))
	if content.Spec.Policy != schema.PolicyRetain || !w.held["snap-01"] {
		t.Errorf("the content of another's has the policy %s now", content.Spec.Policy)
	}
	if got := k.takings(t); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "delete") }) {
		t.Errorf("recorded: %q", got)
	}
}

// TestKeepSteps keeps what was taken after a step that is recorded, whatever the
// rules say, and for a week what may yet be.
func TestKeepSteps(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	k := newKeeper(t, w, book, map[string]any{"afterSteps": true, "keep": map[string]any{"last": 1}})
	w.claim(t, "raw", optIn, nil, nil)
	for i, run := range []string{"recorded", "unknown", "last"} {
		// After what was taken before, which is in whole seconds.
		w.pod(t, run, "raw", "Succeeded", time.Now().Add(time.Duration(i)*time.Hour), map[string]string{"workflows.argoproj.io/workflow-uid": "W", "workflows.argoproj.io/node-id": run})
		k.must(t, i)
	}
	k.append(t, watchedStep(t, book, "W/recorded"))
	k.must(t, 10)
	w.want(t, "within the week", "raw", "snap-01 after pod NS/recorded", "snap-02 after pod NS/unknown", "snap-03 after pod NS/last")
	if err := k.taker.Take(t.Context(), w.now.Add(grace+time.Hour), k.record); err != nil {
		t.Fatal(err)
	}
	w.want(t, "after a week", "raw", "snap-01 after pod NS/recorded", "snap-03 after pod NS/last")
}

// TestTakeCrash ends between asking for a snapshot and recording it, and between
// recording a deletion and doing it: the next process goes on.
func TestTakeCrash(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	take := map[string]any{"every": "1m", "keep": map[string]any{"last": 1}}
	k := newKeeper(t, w, book, take)
	w.claim(t, "raw", optIn, nil, nil)
	w.pod(t, "nb", "raw", "Running", time.Time{}, nil)
	full := errors.New("disk full")
	crash := func(context.Context, schema.Statement) error { return full }
	if err := k.taker.Take(t.Context(), time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC), crash); !errors.Is(err, full) {
		t.Errorf("when nothing can be recorded: %v", err)
	}
	if got := k.takings(t); len(got) != 0 {
		t.Errorf("recorded: %q", got)
	}
	newKeeper(t, w, book, take).must(t, 0)
	if got := k.takings(t); len(got) != 1 {
		t.Errorf("recorded after a crash: %q", got)
	}
	k.must(t, 1)
	// What cannot be recorded is not deleted either.
	if err := k.taker.Take(t.Context(), time.Date(2026, 8, 1, 10, 1, 30, 0, time.UTC), crash); !errors.Is(err, full) {
		t.Errorf("when a deletion cannot be recorded: %v", err)
	}
	w.drive(t)
	if !w.held["snap-01"] {
		t.Error("it was deleted without a record")
	}
	// Recorded, and not done.
	broken := func(ctx context.Context, s schema.Statement) error {
		defer w.front.Break()
		return k.record(ctx, s)
	}
	if err := k.taker.Take(t.Context(), time.Date(2026, 8, 1, 10, 1, 40, 0, time.UTC), broken); err == nil {
		t.Error("nothing fails when the API server is not there any more")
	}
	w.drive(t)
	if !w.held["snap-01"] {
		t.Error("it was deleted by an API server that is not there")
	}
	w.front = server.Front(t)
	newKeeper(t, w, book, take).must(t, 1)
	w.want(t, "in the end", "raw", "snap-02 every 1m0s")
	if got := k.takings(t); len(got) != 3 || !strings.HasPrefix(got[2], "delete raw") {
		t.Errorf("recorded in the end: %q", got)
	}
}

// TestTakeForged has others claim in the ledger that we took a snapshot: only what
// its own observer signed counts.
func TestTakeForged(t *testing.T) {
	w, book := newWorld(t), ledgertest.New(t)
	k := newKeeper(t, w, book, map[string]any{"every": "1m", "keep": map[string]any{"last": 1}})
	w.claim(t, "raw", optIn, nil, nil)
	w.pod(t, "nb", "raw", "Running", time.Time{}, nil)
	k.must(t, 0)
	owner := w.list(t, w.path("volumesnapshots"))[0].Metadata.Labels[ownerLabel]
	old := w.snapshot(t, "old", "raw", map[string]string{managedLabel: "retrace", ownerLabel: owner})
	w.drive(t)
	p := schema.Taking{Action: schema.TakingTake, Source: "csi://prod", Name: w.namespace + "/old", UID: old.Metadata.UID, Claim: "pvc://" + w.namespace + "/raw", Owner: owner, Reason: "forged"}
	st, err := describe(schema.TakingV1, "taking:"+p.Name, p)
	if err != nil {
		t.Fatal(err)
	}
	thief := ledgertest.NewKeys(t)
	env, err := thief.Observer.SignStatement(st)
	if err != nil {
		t.Fatal(err)
	}
	k.append(t, env)
	k.must(t, 1)
	k.must(t, 2)
	k.must(t, 2)
	if got := w.there(t, "raw"); !slices.Contains(got, "snap-02") {
		t.Errorf("what others say that we took is deleted: %q", got)
	}
}

// TestTakeRefuses says what is wrong with settings, and with a class.
func TestTakeRefuses(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ take, want string }{
		{`{"class":"c"}`, "with.take: it takes nothing"},
		{`{"every":"10m"}`, "with.take.class: missing"},
		{`{"every":"10","class":"c"}`, `with.take.every: "10" is not a span`},
		{`{"every":"30s","class":"c"}`, "at least 1m"},
		{`{"every":"10m","class":"c","keep":{}}`, "with.take.keep: it keeps nothing"},
		{`{"every":"10m","class":"c","keep":{"last":-1}}`, "with.take.keep: last is negative"},
		{`{"every":"10m","class":"c","keep":{"yearly":1}}`, "with.take.keep.yearly: there is no such setting"},
	} {
		raw := `{"kubeconfig":` + fmt.Sprintf("%q", kubetest.Kubeconfig(t, w.front.URL)) + `,"take":` + tt.take + `}`
		_, _, err := Kind().Open(t.Context(), ingest.Place{URL: "csi://prod", With: []byte(raw)}, ingest.Env{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("take %s: %v, want %s", tt.take, err, tt.want)
		}
	}
	w.class(t, "delete", schema.PolicyDelete)
	w.claim(t, "raw", optIn, nil, nil)
	for class, want := range map[string]string{"delete": `has the deletionPolicy "Delete"`, "nobody": "there is no VolumeSnapshotClass nobody"} {
		k := newKeeper(t, w, ledgertest.New(t), map[string]any{"every": "10m", "class": class})
		if err := k.at(t, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with the class %s: %v", class, err)
		}
	}
	w.want(t, "nothing was taken", "raw")
	// A place that says nothing of taking does not.
	if _, ok := w.open(t, nil, nil).(ingest.Taker); ok {
		t.Error("a source that is not asked to is a taker")
	}
}

// owned are the snapshots that carry the label of a ledger, as there has them.
func (w *world) owned(t *testing.T, owner string) []string {
	t.Helper()
	handles := map[string]string{}
	for _, c := range w.list(t, group+"/volumesnapshotcontents") {
		handles[c.Metadata.Name] = c.Status.Handle
	}
	var all []string
	for _, o := range w.list(t, w.path("volumesnapshots")) {
		if o.Metadata.Labels[ownerLabel] == owner {
			all = append(all, strings.TrimSpace(handles[o.Status.Content]+" "+o.Metadata.Annotations[reasonAnnotated]))
		}
	}
	slices.Sort(all)
	return all
}

// nameAt is the name of the nth newest snapshot of a ledger, from 0.
func nameAt(t *testing.T, w *world, owner string, n int) string {
	t.Helper()
	handles := map[string]string{}
	for _, o := range w.list(t, w.path("volumesnapshots")) {
		if o.Metadata.Labels[ownerLabel] == owner {
			handles[decode(t, server.Do(t, "GET", group+"/volumesnapshotcontents/"+o.Status.Content, nil)).Status.Handle] = o.Metadata.Name
		}
	}
	var all []string
	for h := range handles {
		all = append(all, h)
	}
	slices.Sort(all)
	return handles[all[len(all)-1-n]]
}

// stepOver is a step of somebody's that used what is at a location.
func stepOver(t *testing.T, book *ledgertest.World, uri string) schema.Envelope {
	t.Helper()
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: "https://example.com/train", ExternalParameters: []byte(`{}`), ResolvedDependencies: []schema.Descriptor{{URI: uri}}},
		RunDetails:      schema.RunDetails{Builder: schema.Builder{ID: "https://example.com"}},
	}
	return book.Sign(t, schema.ProvenanceV1, p, ledgertest.Subject("model"))
}

// watchedStep is a step as a watcher states it.
func watchedStep(t *testing.T, book *ledgertest.World, run string) schema.Envelope {
	t.Helper()
	external, err := json.Marshal(map[string]string{"engine": "argo", "status": "Succeeded"})
	if err != nil {
		t.Fatal(err)
	}
	p := schema.Provenance{
		BuildDefinition: schema.BuildDefinition{BuildType: schema.StepBuildType, ExternalParameters: external},
		RunDetails:      schema.RunDetails{Builder: schema.Builder{ID: "https://example.com"}, Metadata: schema.Metadata{InvocationID: run}},
	}
	subject, err := schema.RunSubject(run, p)
	if err != nil {
		t.Fatal(err)
	}
	return book.Sign(t, schema.ProvenanceV1, p, subject)
}
