package tekton

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
	"github.com/retrace-ledger/retrace/keys"
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

// cluster is a namespace of the API server, behind something that can break.
type cluster struct {
	namespace string
	front     *kubetest.Front
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	kubetest.Need(t, server, missing)
	server.Define(t, group, "v1", "taskruns", taskRun, false)
	server.Define(t, group, "v1", "pipelineruns", pipelineRun, false)
	return &cluster{namespace: server.Namespace(t, "tekton"), front: server.Front(t)}
}

func (c *cluster) open(t *testing.T, naming ingest.Naming) ingest.Source {
	t.Helper()
	with, err := json.Marshal(map[string]string{"kubeconfig": kubetest.Kubeconfig(t, c.front.URL)})
	if err != nil {
		t.Fatal(err)
	}
	src, name, err := Kind().Open(t.Context(), ingest.Place{URL: "tekton://test/" + c.namespace + "/", With: with}, ingest.Env{Naming: naming})
	if err != nil {
		t.Fatal(err)
	}
	if want := "tekton://test/" + c.namespace; name != want {
		t.Fatalf("the name of the source is %s, want %s", name, want)
	}
	return src
}

func (c *cluster) path(plural string) string {
	return "/apis/tekton.dev/v1/namespaces/" + c.namespace + "/" + plural
}

func (c *cluster) put(t *testing.T, plural, object string) string {
	t.Helper()
	var made struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(server.Do(t, "POST", c.path(plural), []byte(object)), &made); err != nil {
		t.Fatal(err)
	}
	return made.Metadata.UID
}

const trained = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// taskRunJSON is a TaskRun as the controller of Tekton leaves it, of a task that
// trains a model.
func taskRunJSON(name, namespace, succeeded string) string {
	r := strings.NewReplacer("NAME", name, "NAMESPACE", namespace, "SUCCEEDED", succeeded)
	return r.Replace(`{
	"apiVersion": "tekton.dev/v1", "kind": "TaskRun",
	"metadata": {"name": "NAME", "uid": "0b7c9a52-9571-11e8-b103-000000000001", "labels": {"tekton.dev/pipelineTask": "train", "tekton.dev/pipeline": "forecast", "team": "demand"},
		"ownerReferences": [{"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": "forecast", "uid": "558a8d47-9571-11e8-b103-025000000001"}]},
	"spec": {"taskRef": {"name": "train"}, "params": [
		{"name": "epochs", "value": "3"}, {"name": "regions", "value": ["north", "south"]}, {"name": "apiToken", "value": "s3cr3tV4lue99"},
		{"name": "CHAINS-GIT_URL", "value": "https://ada:pw@git.example.com/ml/forecast"}, {"name": "CHAINS-GIT_COMMIT", "value": "41b2c9f1a9d3cf7b2e0f6d1a3c5e7b9d1f3a5c7e"}],
		"workspaces": [{"name": "data", "persistentVolumeClaim": {"claimName": "raw"}}]},
	"status": {
		"startTime": "2026-08-01T10:00:00Z", "completionTime": "2026-08-01T10:05:00Z",
		"conditions": [{"type": "Succeeded", "status": "SUCCEEDED", "reason": "Reason", "message": "a message"}],
		"steps": [{"name": "train", "imageID": "registry.example.com/train@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "terminated": {"exitCode": 0, "reason": "Completed"}}],
		"results": [{"name": "mae", "value": "1.25"},
			{"name": "features-ARTIFACT_INPUTS", "value": {"uri": "s3://lake/features", "digest": "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"}},
			{"name": "model-ARTIFACT_OUTPUTS", "value": {"uri": "s3://models/NAME", "digest": "` + trained + `", "isBuildArtifact": "true"}},
			{"name": "serve_IMAGE_URL", "value": "registry.example.com/serve\n"}, {"name": "serve_IMAGE_DIGEST", "value": "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\n"},
			{"name": "report_ARTIFACT_URI", "value": "s3://models/report"}, {"name": "report_ARTIFACT_DIGEST", "value": "sha256:beef"}],
		"taskSpec": {"params": [{"name": "epochs", "default": "10"}, {"name": "seed", "default": "7"}],
			"steps": [{"name": "train", "image": "registry.example.com/train:1", "command": ["python", "train.py"], "args": ["--epochs", "$(params.epochs)"]}]},
		"provenance": {"refSource": {"uri": "git+https://git.example.com/ml/tasks", "digest": {"sha1": "1111111111111111111111111111111111111111"}, "entryPoint": "train.yaml"}}
	}
}`)
}

func pipelineRunJSON(name, namespace, succeeded string) string {
	r := strings.NewReplacer("NAME", name, "NAMESPACE", namespace, "SUCCEEDED", succeeded)
	return r.Replace(`{
	"apiVersion": "tekton.dev/v1", "kind": "PipelineRun",
	"metadata": {"name": "NAME", "uid": "558a8d47-9571-11e8-b103-025000000001", "labels": {"tekton.dev/pipeline": "forecast"}},
	"spec": {"pipelineRef": {"name": "forecast"}, "params": [{"name": "region", "value": "north"}]},
	"status": {
		"startTime": "2026-08-01T09:59:00Z", "completionTime": "2026-08-01T10:06:00Z",
		"conditions": [{"type": "Succeeded", "status": "SUCCEEDED", "reason": "Completed"}],
		"results": [{"name": "model-ARTIFACT_OUTPUTS", "value": {"uri": "s3://models/NAME", "digest": "` + trained + `"}}],
		"skippedTasks": [{"name": "report"}],
		"pipelineSpec": {"tasks": [{"name": "train", "taskRef": {"name": "train"}}]}
	}
}`)
}

func TestLaw(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		c := newCluster(t)
		for i := range 2 {
			c.put(t, "taskruns", taskRunJSON(fmt.Sprintf("train-%d", i), c.namespace, "True"))
			c.put(t, "pipelineruns", pipelineRunJSON(fmt.Sprintf("forecast-%d", i), c.namespace, "True"))
		}
		return &ingesttest.World{
			Open:   func(t *testing.T) ingest.Source { return c.open(t, nil) },
			Change: func(t *testing.T) { c.put(t, "taskruns", taskRunJSON("train-9", c.namespace, "False")) },
			Break:  func(*testing.T) { c.front.Break() },
		}
	})
}

// uids are those that an API server gives.
var uids = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// seen is all that a source says beyond a cursor, and the cursor behind it.
func seen(t *testing.T, src ingest.Source, cursor string) (string, []schema.Envelope, string) {
	t.Helper()
	var b strings.Builder
	var envelopes []schema.Envelope
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
		case e.Envelope != nil:
			envelopes = append(envelopes, *e.Envelope)
		case e.Fact():
			b.WriteString(uids.ReplaceAllString(told(t, e.Statement), "UID"))
		}
	}
	return b.String(), envelopes, cursor
}

// TestRuns reads runs from the API server: one that ended, one that goes on and
// ends, one that is deleted, an odd one.
func TestRuns(t *testing.T) {
	c := newCluster(t)
	rules := ingest.Naming{{Match: map[string]string{"task": "train", "label.team": "demand", "output": "model"}, Name: "demand/forecast", Version: "{param.epochs}"}}
	c.put(t, "taskruns", taskRunJSON("train-1", c.namespace, "True"))
	c.put(t, "pipelineruns", pipelineRunJSON("forecast-1", c.namespace, "True"))
	c.put(t, "taskruns", taskRunJSON("train-2", c.namespace, "Unknown"))
	c.put(t, "taskruns", `{"apiVersion":"tekton.dev/v1","kind":"TaskRun","metadata":{"name":"odd"},"spec":{"params":7},"status":{"startTime":"2026-08-01T10:00:00Z"}}`)
	src := c.open(t, rules)
	said, _, cursor := seen(t, src, "")
	golden(t, "runs.txt", strings.ReplaceAll(said, c.namespace, "NAMESPACE"))
	server.Do(t, "DELETE", c.path("taskruns")+"/train-2", nil)
	if said, _, _ = seen(t, src, cursor); !strings.Contains(said, "gap run-cut-short: the run was deleted while it was Reason") {
		t.Errorf("of a run that was deleted while it went on it is said:\n%s", said)
	}
}

// TestChains has a run signed after it ended, in the form that names the run and
// in the one that does not, and with an attestation copied from another run.
func TestChains(t *testing.T) {
	c := newCluster(t)
	chains, err := keys.FromSeed(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	uid := c.put(t, "taskruns", taskRunJSON("train-1", c.namespace, "True"))
	src := c.open(t, nil)
	before, none, cursor := seen(t, src, "")
	if len(none) > 0 || strings.Count(before, "step ") != 1 {
		t.Fatalf("before it is signed: %d envelopes and\n%s", len(none), before)
	}
	subject := schema.Descriptor{Name: "s3://models/train-1", Digest: schema.DigestSet{schema.SHA256: strings.TrimPrefix(trained, "sha256:")}}
	sign := func(predicateType string, predicate any) string {
		s, err := schema.NewStatement(predicateType, predicate, subject)
		if err != nil {
			t.Fatal(err)
		}
		env, err := chains.SignStatement(s)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(env.Raw)
	}
	v1 := func(run string) any {
		return map[string]any{
			"buildDefinition": map[string]any{"buildType": "https://tekton.dev/chains/v2/slsa", "externalParameters": map[string]any{}},
			"runDetails":      map[string]any{"builder": map[string]any{"id": "https://tekton.dev/chains/v2"}, "metadata": map[string]any{"invocationId": run}},
		}
	}
	server.Do(t, "PATCH", c.path("taskruns")+"/train-1", map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		"chains.tekton.dev/signed":                   "true",
		"chains.tekton.dev/signature-taskrun-" + uid: sign(schema.ProvenanceV1, v1(uid)),
		"chains.tekton.dev/signature-old":            sign(schema.ProvenanceV02, map[string]any{"builder": map[string]any{"id": "https://tekton.dev/chains/v2"}, "buildType": "tekton.dev/v1/TaskRun"}),
		"chains.tekton.dev/signature-copied":         sign(schema.ProvenanceV1, v1("another")),
		"chains.tekton.dev/signature-raw":            base64.StdEncoding.EncodeToString([]byte("a bare signature")),
		"chains.tekton.dev/signature-odd":            "%",
	}}})
	after, envelopes, _ := seen(t, src, cursor)
	if strings.Count(after, "step ") != 1 {
		t.Errorf("after it is signed the run is one step:\n%s", after)
	}
	if len(envelopes) != 2 {
		t.Errorf("%d envelopes are recorded, want the two about this run", len(envelopes))
	}
}
