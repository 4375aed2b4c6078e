package csi

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
	"github.com/retrace-ledger/retrace/schema"
)

var server *kubetest.Server
var missing error

func TestMain(m *testing.M) {
	server, missing = kubetest.Start()
	code := m.Run()
	if server != nil {
		server.Stop()
	}
	os.Exit(code)
}

const (
	group      = "/apis/snapshot.storage.k8s.io/v1"
	driverName = "ebs.csi.example.com"
)

// world is a namespace of the API server, behind something that can break, with
// what a snapshot controller and a driver would do there done by the test.
type world struct {
	namespace string
	front     *kubetest.Front

	now    time.Time       // when the driver takes the next snapshot
	taken  int             // so many snapshots
	held   map[string]bool // handles of those whose bytes it has
	policy string          // of contents
	slow   bool            // takes none
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kubetest.Need(t, server, missing)
	server.Define(t, "snapshot.storage.k8s.io", "v1", "volumesnapshots", "VolumeSnapshot", true)
	server.DefineWide(t, "snapshot.storage.k8s.io", "v1", "volumesnapshotcontents", "VolumeSnapshotContent", true)
	server.DefineWide(t, "snapshot.storage.k8s.io", "v1", "volumesnapshotclasses", "VolumeSnapshotClass", false)
	return &world{
		namespace: server.Namespace(t, "csi"), front: server.Front(t),
		now: time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC), held: map[string]bool{}, policy: schema.PolicyRetain,
	}
}

// open opens the source, with settings that say what to take.
func (w *world) open(t *testing.T, take map[string]any, entries ingest.Entries) ingest.Source {
	t.Helper()
	with := map[string]any{"kubeconfig": kubetest.Kubeconfig(t, w.front.URL)}
	if take != nil {
		with["take"] = take
	}
	raw, err := json.Marshal(with)
	if err != nil {
		t.Fatal(err)
	}
	src, name, err := Kind().Open(t.Context(), ingest.Place{URL: "csi://prod/" + w.namespace + "/", With: raw}, ingest.Env{Entries: entries})
	if err != nil {
		t.Fatal(err)
	}
	if want := "csi://prod/" + w.namespace; name != want {
		t.Fatalf("the name of the source is %s, want %s", name, want)
	}
	return src
}

func (w *world) path(plural string) string {
	if plural == "persistentvolumeclaims" || plural == "pods" {
		return "/api/v1/namespaces/" + w.namespace + "/" + plural
	}
	return group + "/namespaces/" + w.namespace + "/" + plural
}

// object is what the tests look at in one.
type object struct {
	Metadata kube.Meta
	Spec     struct {
		Policy string `json:"deletionPolicy"`
		Source struct {
			Claim string `json:"persistentVolumeClaimName"`
		}
		Ref struct{ Namespace, Name, UID string } `json:"volumeSnapshotRef"`
	}
	Status struct {
		Content string `json:"boundVolumeSnapshotContentName"`
		Handle  string `json:"snapshotHandle"`
	}
}

func decode(t *testing.T, raw []byte) (o object) {
	t.Helper()
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func (w *world) list(t *testing.T, path string) []object {
	t.Helper()
	var l struct{ Items []object }
	if err := json.Unmarshal(server.Do(t, "GET", path, nil), &l); err != nil {
		t.Fatal(err)
	}
	return l.Items
}

// claim creates a PersistentVolumeClaim.
func (w *world) claim(t *testing.T, name string, labels map[string]string, source map[string]any, annotations map[string]string) {
	t.Helper()
	spec := map[string]any{"accessModes": []string{"ReadWriteOnce"}, "resources": map[string]any{"requests": map[string]any{"storage": "1Gi"}}}
	if source != nil {
		spec["dataSource"] = source
	}
	server.Do(t, "POST", w.path("persistentvolumeclaims"), map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": map[string]any{"name": name, "labels": labels, "annotations": annotations}, "spec": spec,
	})
}

// unclaim deletes one, whose protection a controller would end.
func (w *world) unclaim(t *testing.T, name string) {
	t.Helper()
	server.Do(t, "DELETE", w.path("persistentvolumeclaims")+"/"+name, nil)
	_, err := server.Request(t.Context(), "PATCH", w.path("persistentvolumeclaims")+"/"+name, "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	if err != nil && !strings.Contains(err.Error(), "404") {
		t.Fatal(err)
	}
}

// pod creates a pod that mounts a claim, in a phase; it ended at a time unless
// that is zero.
func (w *world) pod(t *testing.T, name, claim, phase string, end time.Time, annotations map[string]string) {
	t.Helper()
	server.Do(t, "POST", w.path("pods"), map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "annotations": annotations},
		"spec": map[string]any{
			"containers": []any{map[string]any{"name": "main", "image": "registry.example.com/train:1"}},
			"volumes":    []any{map[string]any{"name": "data", "persistentVolumeClaim": map[string]any{"claimName": claim}}},
		},
	})
	w.phase(t, name, phase, end)
}

func (w *world) phase(t *testing.T, name, phase string, end time.Time) {
	t.Helper()
	status := map[string]any{"phase": phase}
	if !end.IsZero() {
		status["containerStatuses"] = []any{map[string]any{
			"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
			"state": map[string]any{"terminated": map[string]any{"exitCode": 0, "finishedAt": end.UTC().Format(time.RFC3339)}},
		}}
	}
	server.Do(t, "PATCH", w.path("pods")+"/"+name+"/status", map[string]any{"status": status})
}

// snapshot asks for one of a claim, as anybody may.
func (w *world) snapshot(t *testing.T, name, claim string, labels map[string]string) object {
	t.Helper()
	return decode(t, server.Do(t, "POST", w.path("volumesnapshots"), map[string]any{
		"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": map[string]any{"name": name, "labels": labels},
		"spec": map[string]any{"volumeSnapshotClassName": "retain", "source": map[string]any{"persistentVolumeClaimName": claim}},
	}))
}

// content creates the content of a snapshot, with what the driver says.
func (w *world) content(t *testing.T, name string, of object, handle string) {
	t.Helper()
	server.Do(t, "POST", group+"/volumesnapshotcontents", map[string]any{
		"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"driver": driverName, "deletionPolicy": w.policy, "sourceVolumeMode": "Filesystem", "source": map[string]any{"volumeHandle": "vol-1"},
			"volumeSnapshotRef": map[string]any{"kind": "VolumeSnapshot", "namespace": of.Metadata.Namespace, "name": of.Metadata.Name, "uid": of.Metadata.UID},
		},
	})
	server.Do(t, "PATCH", group+"/volumesnapshotcontents/"+name+"/status", map[string]any{"status": map[string]any{
		"snapshotHandle": handle, "readyToUse": true, "restoreSize": 1 << 30, "creationTime": w.now.UnixNano(),
	}})
}

func (w *world) status(t *testing.T, snapshot string, status map[string]any) {
	t.Helper()
	server.Do(t, "PATCH", w.path("volumesnapshots")+"/"+snapshot+"/status", map[string]any{"status": status})
}

// drive does what the snapshot controller and the driver would: it takes what was
// asked for, a minute apart, and deletes the bytes of contents whose snapshot is
// gone, if their policy says so.
func (w *world) drive(t *testing.T) {
	t.Helper()
	there := map[string]bool{}
	for _, o := range w.list(t, w.path("volumesnapshots")) {
		there[o.Metadata.UID] = true
		if o.Status.Content != "" || w.slow {
			continue
		}
		w.taken++
		w.now = w.now.Add(time.Minute)
		handle := fmt.Sprintf("snap-%02d", w.taken)
		content := "snapcontent-" + o.Metadata.UID
		w.content(t, content, o, handle)
		w.held[handle] = true
		w.status(t, o.Metadata.Name, map[string]any{
			"boundVolumeSnapshotContentName": content, "readyToUse": true, "restoreSize": "1Gi", "creationTime": w.now.Format(time.RFC3339), "error": nil,
		})
	}
	for _, c := range w.list(t, group+"/volumesnapshotcontents") {
		if c.Spec.Ref.Namespace != w.namespace || there[c.Spec.Ref.UID] || c.Spec.Policy != schema.PolicyDelete {
			continue
		}
		delete(w.held, c.Status.Handle)
		server.Do(t, "DELETE", group+"/volumesnapshotcontents/"+c.Metadata.Name, nil)
	}
}

func TestLaw(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		w := newWorld(t)
		for i := range 3 {
			w.claim(t, fmt.Sprintf("raw-%d", i), nil, nil, map[string]string{rokOrigin: fmt.Sprintf("rok:ada/lab/raw?version=%d", i)})
			w.snapshot(t, fmt.Sprintf("raw-%d", i), fmt.Sprintf("raw-%d", i), nil)
		}
		w.drive(t)
		return &ingesttest.World{
			Open:   func(t *testing.T) ingest.Source { return w.open(t, nil, nil) },
			Change: func(t *testing.T) { w.snapshot(t, "new", "raw-0", nil); w.drive(t) },
			Break:  func(*testing.T) { w.front.Break() },
		}
	})
}

// uids are those that an API server gives.
var uids = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// look reads what is new, a line each.
func (w *world) look(t *testing.T, src ingest.Source, cursor *string) []string {
	t.Helper()
	var said []string
	for e, err := range src.Observe(t.Context(), *cursor) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Cursor != "" {
			*cursor = e.Cursor
		}
		var line string
		switch {
		case e.Skipped != nil:
			line = fmt.Sprintf("left out %s: %v", e.Skipped.Object, e.Skipped.Reason)
		case e.Fact():
			line = told(t, e.Statement)
		default:
			continue
		}
		said = append(said, strings.ReplaceAll(uids.ReplaceAllString(line, "UID"), w.namespace, "NS"))
	}
	return said
}

// told is a statement in a line: its summary, its edges and its names.
func told(t *testing.T, s schema.Statement) string {
	t.Helper()
	f, err := s.Facts()
	if err != nil {
		t.Fatal(err)
	}
	line := f.Summary
	for _, r := range f.Relations {
		line += fmt.Sprintf("; %s %s %s", short2(r.From), r.Kind, short2(r.To))
	}
	for _, n := range f.Names {
		if !n.Deleted {
			line += "; " + strings.TrimPrefix(n.Name, "snapshot:csi://prod/") + " is " + short2(n.Key)
		}
	}
	for _, r := range f.Resources {
		if r.Content == schema.ContentVolumeObject {
			line += "; goes with the object"
		}
	}
	if strings.Contains(string(s.Predicate), `"previous"`) {
		line += "; after another"
	}
	return line
}

// short2 is a location as it is, and any digest as a state.
func short2(k schema.Key) string {
	if k.Digested() {
		return "a state"
	}
	return strings.TrimPrefix(string(k), "uri:")
}

// TestHistory follows a snapshot: it is nothing before it is there, fails, is
// there, changes its policy, and is gone.
func TestHistory(t *testing.T) {
	w := newWorld(t)
	src, cursor := w.open(t, nil, nil), ""
	step := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, w.look(t, src, &cursor)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	w.claim(t, "raw", nil, nil, nil)
	w.snapshot(t, "a", "raw", nil)
	step("asked for")
	w.status(t, "a", map[string]any{"readyToUse": false, "error": map[string]any{"message": "quota exceeded", "time": "2026-08-01T10:00:00Z"}})
	step("failed", "csi://prod/NS/raw#a: quota exceeded; NS/raw#a is a state")
	w.status(t, "a", map[string]any{"error": map[string]any{"message": "quota still exceeded"}})
	step("fails again")
	w.drive(t)
	at := "csi://" + driverName + "/snap-01"
	step("taken", "csi://prod/NS/raw#a; "+at+" located pvc://NS/raw; NS/raw is "+at+"; NS/raw#a is "+at+"; after another")
	w.pod(t, "nb-0", "raw", "Running", time.Time{}, nil)
	step("a pod mounts the claim")
	w.policy = schema.PolicyDelete
	w.snapshot(t, "b", "raw", nil)
	w.drive(t)
	b := "csi://" + driverName + "/snap-02"
	step("one that goes with its object", "csi://prod/NS/raw#b; "+b+" located pvc://NS/raw; NS/raw is "+b+"; NS/raw#b is "+b+"; goes with the object")
	server.Do(t, "DELETE", w.path("volumesnapshots")+"/a", nil)
	step("deleted", "csi://prod/NS/raw#a, deleted; "+at+" located pvc://NS/raw; after another")
	w.snapshot(t, "a", "raw", nil)
	w.drive(t)
	c := "csi://" + driverName + "/snap-03"
	step("made anew", "csi://prod/NS/raw#a; "+c+" located pvc://NS/raw; NS/raw is "+c+"; NS/raw#a is "+c+"; goes with the object")
}

// TestDetails reads what a statement holds beside its edges.
func TestDetails(t *testing.T) {
	w := newWorld(t)
	w.claim(t, "raw", nil, nil, nil)
	w.pod(t, "train", "raw", "Succeeded", w.now, map[string]string{"workflows.argoproj.io/workflow-uid": "W", "workflows.argoproj.io/node-id": "N"})
	w.snapshot(t, "a", "raw", map[string]string{"velero.io/backup-name": "nightly", "team": "demand"})
	w.drive(t)
	var got schema.Snapshot
	for e, err := range w.open(t, nil, nil).Observe(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Fact() {
			if err := schema.DecodePredicate(e.Statement, true, &got); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got.Volume == nil || len(got.Volume.Pods) != 1 {
		t.Fatalf("stated is %+v", got)
	}
	content := "snapcontent-" + got.Volume.UID
	got.Volume.UID, got.Volume.Pods[0].UID = "", ""
	want := schema.Snapshot{
		Source: "csi://prod/" + w.namespace + "/raw", Bytes: 1 << 30,
		Volume: &schema.VolumeSnapshot{
			Name: "a", URI: "csi://" + driverName + "/snap-01", Claim: "pvc://" + w.namespace + "/raw", Class: "retain", Policy: "Retain",
			Content: content, Handle: "vol-1", Mode: "Filesystem", Created: w.now, Labels: map[string]string{"velero.io/backup-name": "nightly"},
			Pods: []schema.Mount{{Pod: "train", Run: "W/N"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stated (-want +got):\n%s", diff)
	}
}

// TestForeignContent has a snapshot name the content of another's: it is said, and
// the handle is not taken for its own.
func TestForeignContent(t *testing.T) {
	w := newWorld(t)
	w.claim(t, "raw", nil, nil, nil)
	own := w.snapshot(t, "own", "raw", nil)
	w.drive(t)
	w.snapshot(t, "thief", "raw", nil)
	w.status(t, "thief", map[string]any{"boundVolumeSnapshotContentName": "snapcontent-" + own.Metadata.UID, "readyToUse": true, "creationTime": "2026-08-01T11:00:00Z"})
	cursor, said := "", ""
	src := w.open(t, nil, nil)
	for _, line := range w.look(t, src, &cursor) {
		if strings.Contains(line, "thief") {
			said += line + "\n"
		}
	}
	if !strings.Contains(said, "left out volumesnapshots.snapshot.storage.k8s.io NS/thief: status.boundVolumeSnapshotContentName") || strings.Contains(said, "snap-01") || !strings.Contains(said, "volumesnapshot://NS/thief#UID") {
		t.Errorf("of a snapshot that names a content which does not name it back:\n%s", said)
	}
	if again := w.look(t, src, &cursor); len(again) > 0 {
		t.Errorf("read again: %q", again)
	}
}

// TestOrigins reads what claims were made from: a snapshot, another claim, and
// what Rok says.
func TestOrigins(t *testing.T) {
	w := newWorld(t)
	src, cursor := w.open(t, nil, nil), ""
	w.claim(t, "raw", nil, nil, nil)
	w.snapshot(t, "a", "raw", nil)
	w.drive(t)
	w.look(t, src, &cursor)
	step := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, w.look(t, src, &cursor)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	w.claim(t, "restored", nil, map[string]any{"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "a"}, nil)
	w.claim(t, "clone", nil, map[string]any{"kind": "PersistentVolumeClaim", "name": "raw"}, nil)
	w.claim(t, "rok", nil, nil, map[string]string{rokOrigin: "rok:ada/lab/workspace?version=3f1c"})
	w.claim(t, "odd", nil, nil, map[string]string{rokOrigin: "rok:ada/\nlab"})
	step("made from something",
		"left out persistentvolumeclaims NS/odd: metadata.annotations.rok/origin: is no location",
		"pvc://NS/clone; pvc://NS/clone restored pvc://NS/raw",
		"pvc://NS/restored; pvc://NS/restored restored csi://"+driverName+"/snap-01",
		"pvc://NS/rok; pvc://NS/rok restored rok:ada/lab/workspace?version=3f1c",
	)
	server.Do(t, "DELETE", w.path("volumesnapshots")+"/a", nil)
	step("the snapshot is gone", "csi://prod/NS/raw#a, deleted; csi://"+driverName+"/snap-01 located pvc://NS/raw; after another")
	w.unclaim(t, "restored")
	step("the claim is gone", "pvc://NS/restored, deleted; after another")
	w.claim(t, "restored", nil, map[string]any{"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "a"}, nil)
	step("made anew from what is gone", "pvc://NS/restored; pvc://NS/restored restored volumesnapshot://NS/a")
}

// TestNotInstalled reads a cluster without snapshots, and picks them up when they
// are installed.
func TestNotInstalled(t *testing.T) {
	w := newWorld(t)
	const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
	for _, name := range []string{"volumesnapshots", "volumesnapshotcontents", "volumesnapshotclasses"} {
		server.Do(t, "DELETE", crds+name+".snapshot.storage.k8s.io", nil)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, err := server.Request(t.Context(), "GET", w.path("volumesnapshots"), "", nil)
		if err != nil && strings.Contains(err.Error(), "404") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the definition is still served")
		}
	}
	src, cursor := w.open(t, nil, nil), ""
	w.claim(t, "rok", nil, nil, map[string]string{rokOrigin: "rok:1"})
	if got := w.look(t, src, &cursor); len(got) != 1 || !strings.Contains(got[0], "rok:1") {
		t.Errorf("without snapshots: %q", got)
	}
	newWorld(t) // installs them
	w.snapshot(t, "a", "rok", nil)
	w.drive(t)
	if got := w.look(t, src, &cursor); len(got) != 1 || !strings.Contains(got[0], "snap-01") {
		t.Errorf("when they are installed: %q", got)
	}
}

// FuzzObjects reads objects of anything: what is said of them can be signed.
func FuzzObjects(f *testing.F) {
	f.Add(
		`{"metadata":{"namespace":"ml","name":"a","uid":"u"},"spec":{"source":{"persistentVolumeClaimName":"raw"}},"status":{"boundVolumeSnapshotContentName":"c","creationTime":"2026-08-01T10:00:00Z","readyToUse":true,"restoreSize":"1Gi"}}`,
		`{"metadata":{"name":"c"},"spec":{"driver":"d","deletionPolicy":"Delete","volumeSnapshotRef":{"namespace":"ml","name":"a","uid":"u"}},"status":{"snapshotHandle":"h","restoreSize":1}}`,
		`{"metadata":{"namespace":"ml","name":"raw","annotations":{"rok/origin":"rok:x"}},"spec":{"dataSourceRef":{"apiGroup":"snapshot.storage.k8s.io","kind":"VolumeSnapshot","name":"a"}}}`,
		`{"metadata":{"namespace":"ml","name":"p"},"spec":{"volumes":[{"persistentVolumeClaim":{"claimName":"raw"}}]},"status":{"phase":"Succeeded"}}`,
	)
	f.Fuzz(func(t *testing.T, snapshot, content, claimed, mounting string) {
		c := &cluster{contents: map[string]*kube.VolumeSnapshotContent{}, mounts: map[string][]*pod{}, odd: map[string]ingest.Skip{}}
		object := func(typ kube.Type, raw string) (o kube.Object) {
			var head struct {
				Metadata kube.Meta `json:"metadata"`
			}
			_ = json.Unmarshal([]byte(raw), &head) // what cannot be decoded has no name
			return kube.Object{Type: typ, Meta: head.Metadata, Raw: []byte(raw)}
		}
		if v, err := kube.ParseVolumeSnapshot(object(kube.VolumeSnapshots, snapshot)); err == nil {
			c.snapshots = append(c.snapshots, v)
		}
		if v, err := kube.ParseVolumeSnapshotContent(object(kube.VolumeSnapshotContents, content)); err == nil {
			c.contents[v.Object.Meta.Name] = v
		}
		if v, err := parseClaim(object(claims, claimed)); err == nil {
			c.claims = append(c.claims, v)
		}
		if p, err := parsePod(object(pods, mounting)); err == nil {
			for name := range p.claims {
				c.mounts[p.meta.Namespace+"/"+name] = []*pod{p}
			}
		}
		s, at := &source{cluster: "prod"}, position{Known: map[string]stated{}}
		states := s.states(c, &at)
		for _, id := range at.changes(states) {
			if strings.Count(id, "/") != 2 || states[id].uri() == "" && strings.Contains(id, "//") {
				continue // no API server has an object without a name, or with slashes in it
			}
			if _, err := s.state(&at, id, states[id]); err != nil && states[id].snapshot != nil && states[id].snapshot.Volume.Name != "" {
				t.Errorf("%s: %v", id, err)
			}
		}
	})
}

// FuzzCursor takes cursors of anything, and writes those that it takes as they
// were.
func FuzzCursor(f *testing.F) {
	for _, s := range []string{"", "null", `{"known":{}}`, `{"known":{"VolumeSnapshot/ml/a":{"p":"` + strings.Repeat("a", 64) + `","s":"b"}}}`, `{"known":{"a":{}}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePosition(s)
		if err != nil {
			return
		}
		text, err := p.encode()
		if err != nil {
			return
		}
		if again, err := parsePosition(text); err != nil || !cmp.Equal(p, again) {
			t.Errorf("%q is read as %+v, written and read again as %+v: %v", s, p, again, err)
		}
	})
}
