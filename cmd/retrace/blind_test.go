package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
)

// TestBlindToRuns has a run come and be removed while no watcher runs: whether the
// API server still tells of it nobody can rely on, and coverage says when nobody
// looked.
func TestBlindToRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("runs an API server of Kubernetes")
	}
	t.Parallel()
	kube, err := kubetest.Start()
	kubetest.Need(t, kube, err)
	defer kube.Stop()
	kube.Define(t, "argoproj.io", "v1alpha1", "workflows", "Workflow", false)
	ns := kube.Namespace(t, "blind")
	dir := t.TempDir()
	done(t, dir, "init")
	watched := func() (stop func()) {
		t.Helper()
		_, stop = serveSources(t, dir, fmt.Sprintf("  - url: argo://prod/%s\n    interval: 1s\n    with: {kubeconfig: %s}\n", ns, kube.Kubeconfig))
		return stop
	}
	run := func(i int) {
		t.Helper()
		if err := createRun(t.Context(), kube, ns, i); err != nil {
			t.Fatal(err)
		}
	}
	recorded := func(i int) bool {
		out, _, _ := retrace(t, dir, "models", "-o", "json")
		return strings.Contains(out, fmt.Sprintf("run-%05d/", i))
	}
	stop := watched()
	run(1)
	await(t, "the first run", func() bool { return recorded(1) })
	stop()
	left := time.Now()
	run(2)
	kube.Do(t, "DELETE", "/apis/argoproj.io/v1alpha1/namespaces/"+ns+"/workflows/run-00002", nil)
	time.Sleep(4 * time.Second) // more than three intervals
	back := time.Now()
	stop = watched()
	defer stop()
	run(3)
	await(t, "the run after it", func() bool { return recorded(3) })
	var coverage struct {
		Blind []struct {
			Source string
			From   time.Time
			To     time.Time
		} `json:"intervals"`
	}
	raw, errs, status := retrace(t, dir, "coverage", "-o", "json")
	if status != 1 {
		t.Errorf("coverage with an interval without sight ended with %d: %s", status, errs)
	}
	if err := json.Unmarshal([]byte(raw), &coverage); err != nil {
		t.Fatal(err)
	}
	for _, b := range coverage.Blind {
		if b.Source == "argo://prod/"+ns && !b.From.After(left) && !b.To.Before(back) {
			return
		}
	}
	t.Errorf("coverage does not say that nobody looked from %s to %s: %s", left, back, raw)
}
