package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
)

// TestTakesVolumeSnapshots has a server take a snapshot of a volume, which it then
// watches: the lineage, the record of it, and a bundle.
func TestTakesVolumeSnapshots(t *testing.T) {
	if testing.Short() {
		t.Skip("runs an API server of Kubernetes")
	}
	t.Parallel()
	kube, err := kubetest.Start()
	kubetest.Need(t, kube, err)
	defer kube.Stop()
	const api = "/apis/snapshot.storage.k8s.io/v1"
	kube.Define(t, "snapshot.storage.k8s.io", "v1", "volumesnapshots", "VolumeSnapshot", true)
	kube.DefineWide(t, "snapshot.storage.k8s.io", "v1", "volumesnapshotcontents", "VolumeSnapshotContent", true)
	kube.DefineWide(t, "snapshot.storage.k8s.io", "v1", "volumesnapshotclasses", "VolumeSnapshotClass", false)
	ns := kube.Namespace(t, "ml")
	kube.Do(t, "POST", api+"/volumesnapshotclasses", []byte(`{"apiVersion":"snapshot.storage.k8s.io/v1","kind":"VolumeSnapshotClass","metadata":{"name":"retain"},"driver":"d","deletionPolicy":"Retain"}`))
	kube.Do(t, "POST", "/api/v1/namespaces/"+ns+"/persistentvolumeclaims", []byte(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"raw","labels":{"retrace.dev/snapshot":"true"}},
		"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`))

	dir := t.TempDir()
	done(t, dir, "init")
	_, stop := serveSources(t, dir, fmt.Sprintf(`  - url: csi://prod/%s
    interval: 1s
    with:
      kubeconfig: %s
      take: {every: 10m, class: retain, keep: {last: 3}}
`, ns, kube.Kubeconfig))
	defer stop()
	var asked struct {
		Metadata struct {
			Name, UID string
			Labels    map[string]string
		}
	}
	await(t, "a snapshot to be asked for", func() bool {
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal(kube.Do(t, "GET", api+"/namespaces/"+ns+"/volumesnapshots", nil), &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Items) == 1 && json.Unmarshal(list.Items[0], &asked) == nil
	})
	if asked.Metadata.Labels["app.kubernetes.io/managed-by"] != "retrace" {
		t.Errorf("its labels are %v", asked.Metadata.Labels)
	}
	kube.Do(t, "POST", api+"/volumesnapshotcontents", map[string]any{
		"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": map[string]any{"name": "content"},
		"spec": map[string]any{"driver": "d", "deletionPolicy": "Retain", "volumeSnapshotRef": map[string]any{"namespace": ns, "name": asked.Metadata.Name, "uid": asked.Metadata.UID}},
	})
	kube.Do(t, "PATCH", api+"/volumesnapshotcontents/content/status", []byte(`{"status":{"snapshotHandle":"snap-1","restoreSize":1073741824}}`))
	kube.Do(t, "PATCH", api+"/namespaces/"+ns+"/volumesnapshots/"+asked.Metadata.Name+"/status", []byte(`{"status":{"boundVolumeSnapshotContentName":"content","readyToUse":true,"creationTime":"2026-08-01T10:00:00Z"}}`))

	name := "snapshot:csi://prod/" + ns + "/raw"
	await(t, "the snapshot to be recorded", func() bool {
		_, _, status := retrace(t, dir, "show", name)
		return status == 0
	})
	if out := done(t, dir, "lineage", name); !strings.Contains(out, "pvc://"+ns+"/raw") {
		t.Errorf("its lineage is without the claim:\n%s", out)
	}
	if out := done(t, dir, "log", "--type", "taking"); !strings.Contains(out, "take snapshot "+ns+"/"+asked.Metadata.Name+": every 10m0s") {
		t.Errorf("the log says\n%s", out)
	}
	if out := done(t, dir, "sources"); !strings.Contains(out, "csi://prod/"+ns) {
		t.Errorf("the sources are\n%s", out)
	}
	done(t, dir, "prove", name, "--bundle", "snapshot.bundle")
	if out := done(t, dir, "verify", "snapshot.bundle", "--key", filepath.Join(dirName, "log.vkey")); !strings.Contains(out, "OK") {
		t.Errorf("the bundle: %s", out)
	}
}
