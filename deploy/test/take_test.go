package deploy

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/csi"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// TestTakingRights takes a snapshot and deletes another with the rights that the
// service account is given, and holds them to what that asked for.
func TestTakingRights(t *testing.T) {
	token := account(t, "", csiPart, takePart)
	const api = "/apis/snapshot.storage.k8s.io/v1"
	server.Define(t, "snapshot.storage.k8s.io", "v1", "volumesnapshots", "VolumeSnapshot", false)
	server.DefineWide(t, "snapshot.storage.k8s.io", "v1", "volumesnapshotcontents", "VolumeSnapshotContent", false)
	server.DefineWide(t, "snapshot.storage.k8s.io", "v1", "volumesnapshotclasses", "VolumeSnapshotClass", false)
	namespace := server.Namespace(t, "take")
	server.Do(t, "POST", api+"/volumesnapshotclasses", []byte(`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotClass","metadata":{"name":"retain"},"driver":"d","deletionPolicy":"Retain"}`))
	server.Do(t, "POST", "/api/v1/namespaces/"+namespace+"/persistentvolumeclaims", []byte(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"raw","labels":{"retrace.dev/snapshot":"true"}},
		"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`))
	server.Do(t, "POST", "/api/v1/namespaces/"+namespace+"/pods", []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"nb"},
		"spec":{"containers":[{"name":"main","image":"i"}],"volumes":[{"name":"data","persistentVolumeClaim":{"claimName":"raw"}}]}}`))
	server.Do(t, "PATCH", "/api/v1/namespaces/"+namespace+"/pods/nb/status", map[string]any{"status": map[string]any{"phase": "Running"}})

	f, book := newFront(t, token), ledgertest.New(t)
	with := mustJSON(t, map[string]any{"kubeconfig": kubetest.Kubeconfig(t, f.url), "take": map[string]any{"every": "1m", "class": "retain", "keep": map[string]any{"last": 1}}})
	source, _, err := csi.Kind().Open(t.Context(), ingest.Place{URL: "csi://cluster", With: with}, ingest.Env{Entries: book.Ledger})
	if err != nil {
		t.Fatal(err)
	}
	record := func(ctx context.Context, s schema.Statement) error {
		env, err := book.Observer.SignStatement(s)
		if err == nil {
			_, err = book.Ledger.Append(ctx, schema.Batch{Namespace: schema.DefaultNamespace, Envelopes: []schema.Envelope{env}})
		}
		return err
	}
	take := func(minute int) {
		t.Helper()
		if err := source.(ingest.Taker).Take(t.Context(), time.Date(2026, 8, 1, 10, minute, 0, 0, time.UTC), record); err != nil {
			t.Fatal(err)
		}
		ready(t, api, namespace, minute)
	}
	take(0)
	take(1)
	take(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	var roles []string
	for _, name := range []string{"retrace-csi", "retrace-csi-take"} {
		var role struct{ Rules []rule }
		one(t, render(t, "base", csiPart, takePart), "ClusterRole", name).decode(t, &role)
		roles = append(roles, rights(role.Rules)...)
	}
	slices.Sort(roles)
	if got := slices.Sorted(maps.Keys(f.asked)); !slices.Equal(got, roles) {
		t.Errorf("taking asks to\n  %s\nand may\n  %s", strings.Join(got, "\n  "), strings.Join(roles, "\n  "))
	}
}

// ready does what the driver would.
func ready(t *testing.T, api, namespace string, minute int) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name, UID string }
			Status   struct{ ReadyToUse bool }
		}
	}
	if err := json.Unmarshal(server.Do(t, "GET", api+"/namespaces/"+namespace+"/volumesnapshots", nil), &list); err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Items {
		if o.Status.ReadyToUse {
			continue
		}
		content := "content-" + o.Metadata.UID
		server.Do(t, "POST", api+"/volumesnapshotcontents", map[string]any{
			"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": map[string]any{"name": content},
			"spec":   map[string]any{"driver": "d", "deletionPolicy": "Retain", "volumeSnapshotRef": map[string]any{"namespace": namespace, "name": o.Metadata.Name, "uid": o.Metadata.UID}},
			"status": map[string]any{"snapshotHandle": content},
		})
		server.Do(t, "PATCH", api+"/namespaces/"+namespace+"/volumesnapshots/"+o.Metadata.Name, map[string]any{"status": map[string]any{
			"boundVolumeSnapshotContentName": content, "readyToUse": true, "creationTime": time.Date(2026, 8, 1, 10, minute, 1, 0, time.UTC),
		}})
	}
}
