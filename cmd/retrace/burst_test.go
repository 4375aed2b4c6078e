package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
	"github.com/retrace-ledger/retrace/schema"
)

// burstSteps is how many steps each run of the burst has.
const burstSteps = 6

// burstMemory is what a server may take of its own, without mapped files, however
// many runs arrive. Badger's tables in memory and caches are most of it.
const burstMemory = 1 << 30 // bytes

// TestBurst has pipeline runs of six steps, each of which leaves a model, arrive
// all at once through a real API server while a server watches; in a second
// round the server is killed again and again. All are recorded, exactly once, in
// bounded memory. With -long it is the user's own case, ten thousand runs.
func TestBurst(t *testing.T) {
	if testing.Short() {
		t.Skip("runs an API server of Kubernetes")
	}
	runs, kills := 60, 3
	if *long {
		runs, kills = 10_000, 10
	}
	kube, err := kubetest.Start()
	kubetest.Need(t, kube, err)
	defer kube.Stop()
	kube.Define(t, "argoproj.io", "v1alpha1", "workflows", "Workflow", false)
	for _, killed := range []int{0, kills} {
		t.Run(fmt.Sprintf("killed %d times", killed), func(t *testing.T) { burst(t, kube, runs, killed) })
	}
}

func burst(t *testing.T, kube *kubetest.Server, runs, kills int) {
	ns := kube.Namespace(t, "burst")
	dir := t.TempDir()
	done(t, dir, "init")
	config := filepath.Join(dir, "retrace.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "sources:\n  - url: argo://prod/%s\n    interval: 5s\n    with: {kubeconfig: %s}\n", ns, kube.Kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	start := func() *exec.Cmd {
		t.Helper()
		cmd := retraceCommand(t, dir, "serve", "--listen", address, "--config", config)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	server := start()
	began := time.Now()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(8)
	created := make(chan error, 1)
	go func() {
		for i := range runs {
			group.Go(func() error { return createRun(ctx, kube, ns, i) })
		}
		created <- group.Wait()
	}()
	peak := int64(0)
	killedAt := 0
	want := runs * (burstSteps + 1 + burstSteps) // steps, the run, a model a step
	for finished := false; ; time.Sleep(300 * time.Millisecond) {
		select {
		case err := <-created:
			if err != nil {
				t.Fatal(err)
			}
			finished = true
			t.Logf("%d runs were there after %s", runs, time.Since(began).Round(time.Second))
		default:
		}
		peak = max(peak, ownMemory(server.Process.Pid))
		have := gauge(t, address, "retrace_entries")
		if killedAt < kills && have > want*(killedAt+1)/(kills+2) {
			killedAt++
			_ = server.Process.Kill()
			_ = server.Wait() // killed
			server = start()
			continue
		}
		if finished && have >= want {
			break
		}
		if time.Since(began) > time.Hour || !*long && time.Since(began) > 3*time.Minute {
			t.Fatalf("%d of %d entries after %s", have, want, time.Since(began))
		}
	}
	took := time.Since(began)
	_ = server.Process.Signal(os.Interrupt)
	if err := server.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	countOnce(t, dir, runs)
	t.Logf("%d runs, %d kills: recorded after %s, at most %d MiB of its own", runs, killedAt, took.Round(time.Second), peak>>20)
	if killedAt != kills {
		t.Errorf("the server was killed %d times, want %d", killedAt, kills)
	}
	if peak > burstMemory {
		t.Errorf("the server took %d MiB, the bound is %d", peak>>20, burstMemory>>20)
	}
}

// createRun creates a run as the controller of Argo leaves it.
func createRun(ctx context.Context, kube *kubetest.Server, ns string, i int) error {
	name := fmt.Sprintf("run-%05d", i)
	var nodes []string
	for s := range burstSteps {
		nodes = append(nodes, fmt.Sprintf(`"%[1]s-%[2]d": {"id": "%[1]s-%[2]d", "name": "%[1]s.step-%[2]d", "displayName": "step-%[2]d", "type": "Pod", "templateName": "train", "phase": "Succeeded",
			"startedAt": "2026-08-01T10:0%[2]d:00Z", "finishedAt": "2026-08-01T10:0%[2]d:30Z",
			"inputs": {"parameters": [{"name": "seed", "value": "%[3]d"}]}, "outputs": {"parameters": [{"name": "mae", "value": "1.25"}], "artifacts": [{"name": "model", "s3": {"key": "%[1]s/%[2]d/model"}}]}}`, name, s, i))
	}
	body := fmt.Sprintf(`{"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": %q, "generateName": "forecast-"},
		"spec": {"arguments": {"parameters": [{"name": "seed", "value": "%d"}]}, "templates": [{"name": "train", "container": {"image": "registry.example.com/train@sha256:%s", "command": ["train"]}}]},
		"status": {"phase": "Succeeded", "startedAt": "2026-08-01T10:00:00Z", "finishedAt": "2026-08-01T10:06:00Z", "artifactRepositoryRef": {"artifactRepository": {"s3": {"bucket": "artifacts"}}}, "nodes": {%s}}}`,
		name, i, strings.Repeat("a", 64), strings.Join(nodes, ","))
	_, err := kube.Request(ctx, "POST", "/apis/argoproj.io/v1alpha1/namespaces/"+ns+"/workflows", "application/json", []byte(body))
	return err
}

// countOnce counts what the ledger holds: each step and each model once.
func countOnce(t *testing.T, dir string, runs int) {
	t.Helper()
	l, err := tryOpen(filepath.Join(dir, dirName))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	steps, models := map[string]int{}, map[string]int{}
	for e, err := range l.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		st, err := e.Envelope.Statement()
		if err != nil {
			t.Fatal(err)
		}
		f, err := st.Facts()
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case f.Step != nil:
			steps[f.Step.Run]++
		case st.PredicateType == schema.ModelV1:
			models[f.Names[0].Name]++
		}
	}
	for what, counted := range map[string]map[string]int{"step": steps, "model": models} {
		for name, n := range counted {
			if n != 1 {
				t.Errorf("the %s %s is recorded %d times", what, name, n)
			}
		}
	}
	if len(steps) != runs*(burstSteps+1) || len(models) != runs*burstSteps {
		t.Errorf("%d steps and runs, %d models; want %d and %d", len(steps), len(models), runs*(burstSteps+1), runs*burstSteps)
	}
}

// ownMemory is what a process holds in memory that is not of mapped files, in
// bytes; 0 where the system does not say.
func ownMemory(pid int) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// gauge is the value of a metric of a server; 0 while it does not answer.
func gauge(t *testing.T, address, name string) int {
	t.Helper()
	body, ok := tryGet("http://" + address + "/metrics")
	if !ok {
		return 0
	}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(v)
		}
	}
	return 0
}

func tryGet(url string) (string, bool) {
	resp, err := http.Get(url)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return string(raw), err == nil && resp.StatusCode == http.StatusOK
}
