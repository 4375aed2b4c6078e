package argo

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
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

// cluster is a namespace of the API server, behind something that can break.
type cluster struct {
	namespace string
	front     *kubetest.Front
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	kubetest.Need(t, server, missing)
	server.Define(t, "argoproj.io", "v1alpha1", "workflows", "Workflow", false)
	c := &cluster{namespace: server.Namespace(t, "argo"), front: server.Front(t)}
	return c
}

func (c *cluster) open(t *testing.T, naming ingest.Naming) ingest.Source {
	t.Helper()
	with, err := json.Marshal(map[string]string{"kubeconfig": kubetest.Kubeconfig(t, c.front.URL)})
	if err != nil {
		t.Fatal(err)
	}
	src, name, err := Kind().Open(t.Context(), ingest.Place{URL: "argo://test/" + c.namespace + "/", With: with}, ingest.Env{Naming: naming})
	if err != nil {
		t.Fatal(err)
	}
	if want := "argo://test/" + c.namespace; name != want {
		t.Fatalf("the name of the source is %s, want %s", name, want)
	}
	return src
}

func (c *cluster) path(plural string) string {
	if plural == "pods" {
		return "/api/v1/namespaces/" + c.namespace + "/pods"
	}
	return "/apis/argoproj.io/v1alpha1/namespaces/" + c.namespace + "/" + plural
}

// run puts a Workflow of two steps into the cluster: data is prepared and a
// model trained of it.
func (c *cluster) run(t *testing.T, name, phase string) {
	t.Helper()
	server.Do(t, "POST", c.path("workflows"), []byte(workflowJSON(name, phase)))
}

// workflowJSON is a Workflow as the controller of Argo leaves it.
func workflowJSON(name, phase string) string {
	r := strings.NewReplacer("NAME", name, "PHASE", phase)
	return r.Replace(`{
	"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
	"metadata": {"name": "NAME", "generateName": "forecast-", "labels": {"team": "demand", "workflows.argoproj.io/phase": "PHASE"}},
	"spec": {
		"entrypoint": "main",
		"arguments": {"parameters": [{"name": "region", "value": "north"}, {"name": "api_token", "value": "s3cr3tV4lue99"}]},
		"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "raw"}}],
		"templates": [
			{"name": "main", "dag": {"tasks": []}},
			{"name": "prepare", "container": {"image": "registry.example.com/prep:1", "command": ["prep"], "args": ["--region", "{{inputs.parameters.region}}"],
				"volumeMounts": [{"name": "data", "mountPath": "/raw"}], "env": [{"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db"}}}, {"name": "LANG", "value": "C"}]}},
			{"name": "train", "script": {"image": "registry.example.com/train:1", "command": ["python"], "source": "print(1)"}}
		]
	},
	"status": {
		"phase": "PHASE", "startedAt": "2026-08-01T10:00:00Z", "finishedAt": "2026-08-01T10:05:00Z",
		"artifactRepositoryRef": {"artifactRepository": {"s3": {"bucket": "artifacts", "endpoint": "minio:9000"}}},
		"nodes": {
			"NAME": {"id": "NAME", "name": "NAME", "displayName": "NAME", "type": "DAG", "templateName": "main", "phase": "PHASE", "children": ["NAME-1"]},
			"NAME-1": {"id": "NAME-1", "name": "NAME.prepare", "displayName": "prepare", "type": "Pod", "templateName": "prepare", "phase": "Succeeded",
				"boundaryID": "NAME", "startedAt": "2026-08-01T10:00:01Z", "finishedAt": "2026-08-01T10:02:00Z",
				"inputs": {"parameters": [{"name": "region", "value": "north"}]},
				"outputs": {"exitCode": "0", "parameters": [{"name": "rows", "value": "702"}], "artifacts": [{"name": "table", "path": "/out/table.csv", "s3": {"key": "NAME/table.csv"}}]}},
			"NAME-2": {"id": "NAME-2", "name": "NAME.train", "displayName": "train", "type": "Pod", "templateName": "train", "phase": "Succeeded",
				"boundaryID": "NAME", "startedAt": "2026-08-01T10:02:01Z", "finishedAt": "2026-08-01T10:05:00Z",
				"inputs": {"artifacts": [{"name": "table", "path": "/in/table.csv", "s3": {"key": "NAME/table.csv"}}]},
				"outputs": {"parameters": [{"name": "mae", "value": "1.25"}], "artifacts": [{"name": "model", "path": "/out/model", "s3": {"bucket": "models", "key": "NAME/model"}}]}},
			"NAME-3": {"id": "NAME-3", "name": "NAME.report", "displayName": "report", "type": "Skipped", "phase": "Skipped"}
		}
	}
}`)
}

// pod puts the pod of a step there, as a kubelet leaves it.
func (c *cluster) pod(t *testing.T, name, image, imageID string) {
	t.Helper()
	server.Do(t, "POST", c.path("pods"), map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"containers": []any{map[string]any{"name": "main", "image": image}}},
	})
	server.Do(t, "PATCH", c.path("pods")+"/"+name+"/status", map[string]any{"status": map[string]any{
		"phase": "Succeeded", "containerStatuses": []any{map[string]any{"name": "main", "image": image, "imageID": imageID, "ready": false, "restartCount": 0}},
	}})
}

func TestLaw(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		c := newCluster(t)
		for i := range 3 {
			c.run(t, fmt.Sprintf("forecast-%d", i), "Succeeded")
		}
		return &ingesttest.World{
			Open:   func(t *testing.T) ingest.Source { return c.open(t, nil) },
			Change: func(t *testing.T) { c.run(t, "forecast-9", "Failed") },
			Break:  func(*testing.T) { c.front.Break() },
		}
	})
}

// uids are those that an API server gives.
var uids = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// told is all that a source says beyond a cursor.
func (c *cluster) told(t *testing.T, src ingest.Source, cursor string) (string, string) {
	t.Helper()
	var b strings.Builder
	for e, err := range src.Observe(context.WithoutCancel(t.Context()), cursor) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Cursor != "" {
			cursor = e.Cursor
		}
		switch {
		case e.Skipped != nil:
			fmt.Fprintf(&b, "  left out %s: %v\n", e.Skipped.Object, e.Skipped.Reason)
		case e.Fact():
			b.WriteString(uids.ReplaceAllString(told(t, e.Statement), "UID"))
		}
	}
	return b.String(), cursor
}

// TestRun reads a run step by step: parameters, what is withheld, where things
// lie, whose they are, the image that the pod ran, and the model by its rule.
func TestRun(t *testing.T) {
	c := newCluster(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	// As newer versions name the pod of a step: workflow, template, hash of the node.
	c.pod(t, "forecast-1-train-"+podHash("forecast-1.train"), "registry.example.com/train:1", "docker-pullable://registry.example.com/train@"+digest)
	c.run(t, "forecast-1", "Succeeded")
	rules := ingest.Naming{{Match: map[string]string{"task": "train", "label.team": "demand"}, Name: "demand/{param.region}", Version: "7"}}
	said, cursor := c.told(t, c.open(t, rules), "")
	for _, want := range []string{
		"step UID/forecast-1-1 forecast/prepare",
		`argv ["prep" "--region" "north"]`,
		"uses input /raw uri:pvc://" + c.namespace + "/raw",
		"makes table uri:s3://artifacts/forecast-1/table.csv",
		"gap image-unresolved registry.example.com/prep:1",
		"step UID/forecast-1-2 forecast/train",
		"uses image registry.example.com/train " + digest,
		"uses input table uri:s3://artifacts/forecast-1/table.csv UID/forecast-1-1",
		"makes model uri:s3://models/forecast-1/model",
		"names model:demand/north@7 uri:s3://models/forecast-1/model",
		"step UID forecast",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("the run does not say %q:\n%s", want, said)
		}
	}
	if again, _ := c.told(t, c.open(t, rules), cursor); again != "" {
		t.Errorf("read again:\n%s", again)
	}
	// A label that a controller sets later is nothing new, nor is it that the run is
	// removed in the end.
	server.Do(t, "PATCH", c.path("workflows")+"/forecast-1", map[string]any{"metadata": map[string]any{"labels": map[string]any{"workflows.argoproj.io/workflow-archiving-status": "Archived"}}})
	server.Do(t, "DELETE", c.path("workflows")+"/forecast-1", nil)
	again, cursor := c.told(t, c.open(t, rules), cursor)
	if again != "" {
		t.Errorf("after the run was archived:\n%s", again)
	}
	// One that is removed while it runs is told as far as it was seen.
	c.run(t, "cut", "Running")
	if again, cursor = c.told(t, c.open(t, rules), cursor); again != "" {
		t.Errorf("of a run that goes on:\n%s", again)
	}
	server.Do(t, "DELETE", c.path("workflows")+"/cut", nil)
	if cut, _ := c.told(t, c.open(t, rules), cursor); !strings.Contains(cut, "gap run-cut-short") || !strings.Contains(cut, "step UID/cut-1 ") {
		t.Errorf("a run that was cut short:\n%s", cut)
	}
	// One that cannot be read is left out, and the next is read.
	server.Do(t, "POST", c.path("workflows"), map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": map[string]any{"name": "odd"},
		"status": map[string]any{"phase": "Succeeded", "startedAt": "2026-08-01T10:00:00Z", "compressedNodes": "!"},
	})
	c.run(t, "well", "Succeeded")
	if said, _ := c.told(t, c.open(t, rules), cursor); !strings.Contains(said, "left out workflow "+c.namespace+"/odd: status.compressedNodes") || !strings.Contains(said, "step UID/well-1 ") {
		t.Errorf("beside an odd run:\n%s", said)
	}
}

// TestVolumeSnapshots reads the snapshots that were taken of a claim: one taken
// after the step that mounted it shows what it left there, by the driver's handle
// where the cluster tells it.
func TestVolumeSnapshots(t *testing.T) {
	c := newCluster(t)
	// Snapshots are objects of their own, which a cluster need not have.
	if said, _ := c.told(t, c.open(t, nil), ""); strings.Contains(said, "csi://") {
		t.Errorf("a snapshot before there are any:\n%s", said)
	}
	server.Define(t, "snapshot.storage.k8s.io", "v1", "volumesnapshots", "VolumeSnapshot", false)
	server.DefineWide(t, "snapshot.storage.k8s.io", "v1", "volumesnapshotcontents", "VolumeSnapshotContent", false)
	take := func(name, claim, created, content string, ready bool) (uid string) {
		var made struct {
			Metadata struct {
				UID string `json:"uid"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(server.Do(t, "POST", "/apis/snapshot.storage.k8s.io/v1/namespaces/"+c.namespace+"/volumesnapshots", map[string]any{
			"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": map[string]any{"name": name},
			"spec":   map[string]any{"source": map[string]any{"persistentVolumeClaimName": claim}},
			"status": map[string]any{"boundVolumeSnapshotContentName": content, "creationTime": created, "readyToUse": ready},
		}), &made); err != nil {
			t.Fatal(err)
		}
		return made.Metadata.UID
	}
	content := "content-" + c.namespace
	take("before", "raw", "2026-08-01T10:01:00Z", content, true) // while the step ran
	uid := take("after", "raw", "2026-08-01T10:02:30Z", content, true)
	server.Do(t, "POST", "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents", map[string]any{
		"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": map[string]any{"name": content},
		"spec": map[string]any{"driver": "ebs.csi.example.com", "deletionPolicy": "Delete",
			"volumeSnapshotRef": map[string]any{"kind": "VolumeSnapshot", "namespace": c.namespace, "name": "after", "uid": uid}},
		"status": map[string]any{"snapshotHandle": "snap-0123"},
	})
	take("unknown", "raw", "2026-08-01T10:03:00Z", "nobody", true)
	take("thief", "raw", "2026-08-01T10:04:00Z", content, true) // names a content that is another's
	take("pending", "raw", "2026-08-01T10:03:00Z", content, false)
	take("other", "another", "2026-08-01T10:02:30Z", content, true)
	c.run(t, "forecast-1", "Succeeded")
	said, _ := c.told(t, c.open(t, nil), "")
	var got []string
	for line := range strings.Lines(said) {
		if makes := strings.Contains(line, "makes "); makes && (strings.Contains(line, "csi://") || strings.Contains(line, "volumesnapshot://")) {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{"makes /raw uri:csi://ebs.csi.example.com/snap-0123", "makes /raw uri:volumesnapshot://" + c.namespace + "/unknown#UID", "makes /raw uri:volumesnapshot://" + c.namespace + "/thief#UID"}
	if !slices.Equal(got, want) {
		t.Errorf("snapshots %q, want %q:\n%s", got, want, said)
	}
	if n := strings.Count(said, "snapshot-policy-delete"); n != 1 {
		t.Errorf("%d gaps for a snapshot that goes with its object, want 1:\n%s", n, said)
	}
}

// TestFuture has a run say that it ended in the next century: those that end after
// it are recorded all the same.
func TestFuture(t *testing.T) {
	c := newCluster(t)
	src := c.open(t, nil)
	_, cursor := c.told(t, src, "")
	server.Do(t, "POST", c.path("workflows"), []byte(strings.Replace(workflowJSON("bogus", "Succeeded"), `"finishedAt": "2026-08-01T10:05:00Z"`, `"finishedAt": "2126-08-01T10:05:00Z"`, 1)))
	said, cursor := c.told(t, src, cursor)
	if !strings.Contains(said, "step UID/bogus-1 ") {
		t.Errorf("of a run that ended in the future:\n%s", said)
	}
	now := time.Now().UTC().Format(time.RFC3339)
	server.Do(t, "POST", c.path("workflows"), []byte(strings.Replace(workflowJSON("next", "Succeeded"), `"finishedAt": "2026-08-01T10:05:00Z"`, `"finishedAt": "`+now+`"`, 1)))
	if said, _ := c.told(t, src, cursor); !strings.Contains(said, "step UID/next-1 ") {
		t.Errorf("of a run after it:\n%s", said)
	}
}

// podHash is the end of the name of a step's pod.
func podHash(node string) string {
	h := fnv.New32a()
	h.Write([]byte(node))
	return fmt.Sprint(h.Sum32())
}

// TestWithheld keeps secrets out of what is signed.
func TestWithheld(t *testing.T) {
	for _, raw := range []string{
		workflowJSON("n", "Succeeded"),
		strings.ReplaceAll(workflowJSON("n", "Succeeded"), `"--region"`, `"--password", "s3cr3tV4lue99"`),
		strings.ReplaceAll(workflowJSON("n", "Succeeded"), `{"name": "LANG", "value": "C"}`, `{"name": "API_KEY", "value": "s3cr3tV4lue99"}`),
	} {
		statements, err := Statements([]byte(strings.Replace(raw, `"metadata": {`, `"metadata": {"uid": "u",`, 1)), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range statements {
			text, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "s3cr3tV4lue99") {
				t.Errorf("a secret is in a statement: %s", text)
			}
		}
		run := statements[len(statements)-1]
		f, err := run.Facts()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(f.Step.Secrets, "api_token") {
			t.Errorf("the run does not say that a parameter was withheld: %v", f.Step.Secrets)
		}
	}
}

// TestKale reads what Kale writes on a pipeline that it makes of a notebook, and on
// its steps, beside the labels.
func TestKale(t *testing.T) {
	raw := strings.Replace(workflowJSON("n", "Succeeded"), `"generateName": "forecast-",`, `"uid": "u", "generateName": "forecast-", "annotations": {"kubeflow-kale.org/kfp-run-uuid": "0f1e", "note": "x"},`, 1)
	raw = strings.Replace(raw, `{"name": "prepare", "container"`, `{"name": "prepare", "metadata": {"annotations": {"kubeflow-kale.org/volume-name-parameters": "[\"create-volume-1\"]", "other": "y"}, "labels": {"kubeflow-kale.org/state": "1", "app": "z"}}, "container"`, 1)
	statements, err := Statements([]byte(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]map[string]string{
		0:                   {"team": "demand", "kubeflow-kale.org/kfp-run-uuid": "0f1e", "kubeflow-kale.org/volume-name-parameters": `["create-volume-1"]`, "kubeflow-kale.org/state": "1"},
		1:                   {"team": "demand", "kubeflow-kale.org/kfp-run-uuid": "0f1e"},
		len(statements) - 1: {"team": "demand", "kubeflow-kale.org/kfp-run-uuid": "0f1e"},
	} {
		var p struct {
			BuildDefinition struct {
				ExternalParameters struct {
					Labels map[string]string `json:"labels"`
				} `json:"externalParameters"`
			} `json:"buildDefinition"`
		}
		if err := json.Unmarshal(statements[i].Predicate, &p); err != nil {
			t.Fatal(err)
		}
		if got := p.BuildDefinition.ExternalParameters.Labels; !maps.Equal(got, want) {
			t.Errorf("labels of statement %d are %v, want %v", i, got, want)
		}
	}
}
