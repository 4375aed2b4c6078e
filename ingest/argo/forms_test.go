package argo

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/schema"
)

// of puts nodes into a Workflow, and what else its status and labels have.
func of(labels, status, nodes string) string {
	return fmt.Sprintf(`{"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
		"metadata": {"uid": "U", "name": "run", "generateName": "forecast-", "namespace": "ml", "labels": {%s}},
		"spec": {"templates": [{"name": "train", "container": {"image": "i@sha256:%s", "command": ["train"]}}]},
		"status": {"phase": "Succeeded", "startedAt": "2026-08-01T10:00:00Z", "finishedAt": "2026-08-01T10:05:00Z", %s "nodes": {%s}}}`,
		labels, strings.Repeat("a", 64), status, nodes)
}

// pod is a step that ran.
func podNode(id, display, phase, more string) string {
	return fmt.Sprintf(`%q: {"id": %[1]q, "name": "run.%[2]s", "displayName": %[2]q, "type": "Pod", "templateName": "train", "phase": %[3]q,
		"startedAt": "2026-08-01T10:00:00Z", "finishedAt": "2026-08-01T10:01:00Z" %[4]s}`, id, display, phase, more)
}

// tell is what is said of a Workflow.
func tell(t *testing.T, raw string) string {
	t.Helper()
	statements, err := Statements([]byte(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, s := range statements {
		b.WriteString(told(t, s))
	}
	return b.String()
}

// TestForms reads the forms that steps of Argo come in.
func TestForms(t *testing.T) {
	retried := `"r": {"id": "r", "name": "run.train", "displayName": "train", "type": "Retry", "phase": "Succeeded", "children": ["r-0", "r-1"]}, ` +
		podNode("r-0", "train(0)", "Failed", `, "message": "exit code 1", "outputs": {"exitCode": "1"}`) + ", " + podNode("r-1", "train(1)", "Succeeded", `, "outputs": {"exitCode": "0"}`)
	loop := podNode("l-0", "fit(0:north)", "Succeeded", "") + ", " + podNode("l-1", "fit(1:south)", "Succeeded", "") +
		`, "s": {"id": "s", "name": "run.report", "displayName": "report", "type": "Skipped", "phase": "Skipped"}`
	memo := podNode("m", "prepare", "Succeeded", `, "memoizationStatus": {"hit": true, "key": "k1", "cacheName": "c"},
		"outputs": {"artifacts": [{"name": "model", "s3": {"bucket": "b", "key": "cached/model"}}]}`)
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	fmt.Fprint(zip, "{"+podNode("c", "train", "Succeeded", "")+"}")
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, raw string
		want, not []string
	}{
		{"retries", of("", "", retried), []string{"step U/r-0 forecast/train ", "step U/r-1 forecast/train ", "gap step-failed Failed: exit code 1"}, []string{"step U/r "}},
		{"loop and condition", of("", "", loop), []string{"step U/l-0 forecast/fit(0:north)", "step U/l-1 forecast/fit(1:south)"}, []string{"U/s"}},
		{"memoised", of("", "", memo), []string{"step U/m forecast/prepare", "uses reused model uri:s3://b/cached/model"}, []string{"makes model", "names model"}},
		{"compressed", strings.Replace(of("", fmt.Sprintf(`"compressedNodes": %q,`, base64.StdEncoding.EncodeToString(packed.Bytes())), ""), `"nodes": {}`, `"nodes": null`, 1), []string{"step U/c forecast/train"}, nil},
		{"offloaded", of("", `"offloadNodeStatusVersion": "fnv:123",`, ""), []string{"step U forecast", "gap steps-elsewhere"}, nil},
		{"no bucket", of("", "", podNode("n", "train", "Succeeded", `, "outputs": {"artifacts": [{"name": "model", "s3": {"key": "k"}}]}`)), []string{"gap location-unknown"}, []string{"makes model", "names model"}},
		{"git and raw", of("", "", podNode("g", "train", "Succeeded", `, "inputs": {"artifacts": [{"name": "code", "git": {"repo": "https://u:p@git.example.com/a", "revision": "`+strings.Repeat("1", 40)+`"}}, {"name": "text", "raw": {"data": "x"}}]}`)),
			[]string{"uses input code gitCommit:" + strings.Repeat("1", 40), "uses input text sha256:"}, []string{"u:p@"}},
		{"handed on by a parameter", of("", "", podNode("a", "prepare", "Succeeded", `, "outputs": {"parameters": [{"name": "out", "value": "gs://b/table"}]}`)+", "+podNode("b", "train", "Succeeded", `, "inputs": {"parameters": [{"name": "in", "value": "gs://b/table"}]}`)),
			[]string{"makes out uri:gs://b/table", "uses input in uri:gs://b/table U/a"}, nil},
	} {
		got := tell(t, c.raw)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: it is not said that %q:\n%s", c.what, want, got)
			}
		}
		for _, not := range c.not {
			if strings.Contains(got, not) {
				t.Errorf("%s: it is said that %q:\n%s", c.what, not, got)
			}
		}
	}
	for what, raw := range map[string]string{
		"an id that is not its own": of("", "", strings.Replace(podNode("x", "train", "Succeeded", ""), `"id": "x"`, `"id": "y"`, 1)),
		"nodes that do not inflate": strings.Replace(of("", `"compressedNodes": "AAAA",`, ""), `"nodes": {}`, `"nodes": null`, 1),
	} {
		if _, err := Statements([]byte(raw), nil); !isField(err) {
			t.Errorf("%s: %v, want a *schema.FieldError", what, err)
		}
	}
}

func isField(err error) bool {
	var fe *schema.FieldError
	return errors.As(err, &fe)
}

// TestKubeflow reads a run of Kubeflow Pipelines v2 in the form that its drivers
// and launchers leave it: what a task was given and where its artifacts are
// stands in the pod that its driver asked for.
func TestKubeflow(t *testing.T) {
	input := `{"inputs": {"parameterValues": {"rounds": 200, "api_key": "s3cr3tV4lue99"}, "artifacts": {"table": {"artifacts": [{"name": "table", "type": {"schemaTitle": "system.Dataset"}, "uri": "minio://mlpipeline/v2/artifacts/p/1/prepare/x/table"}]}}},
		"outputs": {"artifacts": {
			"booster": {"artifacts": [{"name": "booster", "type": {"schemaTitle": "system.Model"}, "uri": "minio://mlpipeline/v2/artifacts/p/1/train/y/booster"}]},
			"scores": {"artifacts": [{"name": "scores", "type": {"schemaTitle": "system.Metrics"}, "uri": "minio://mlpipeline/v2/artifacts/p/1/train/y/scores", "metadata": {"rmse": 0.5, "note": "text"}}]}}}}`
	patch := patchOf(t, "registry.example.com/train:1", input, "python", "-m", "kfp.dsl.executor_main")
	prepared := patchOf(t, "registry.example.com/prep:1", `{"outputs": {"artifacts": {"table": {"artifacts": [{"name": "table", "type": {"schemaTitle": "system.Dataset"}, "uri": "minio://mlpipeline/v2/artifacts/p/1/prepare/x/table"}]}}}}`, "prep")
	task := func(id, name, patch string) string {
		return fmt.Sprintf(`"%[1]s-t": {"id": "%[1]s-t", "name": "run.%[2]s", "displayName": %[2]q, "type": "DAG", "templateName": "system-container-executor", "phase": "Succeeded"},
			"%[1]s-d": {"id": "%[1]s-d", "name": "run.%[2]s-driver", "displayName": "%[2]s-driver", "type": "Pod", "templateName": "system-container-driver", "phase": "Succeeded",
				"outputs": {"parameters": [{"name": "cached-decision", "value": "false"}, {"name": "pod-spec-patch", "value": %[3]s}]}},
			"%[1]s-e": {"id": "%[1]s-e", "name": "run.%[2]s.executor", "displayName": "executor", "type": "Pod", "templateName": "system-container-impl", "boundaryID": "%[1]s-t", "phase": "Succeeded",
				"startedAt": "2026-08-01T10:00:00Z", "finishedAt": "2026-08-01T10:01:00Z", "inputs": {"parameters": [{"name": "pod-spec-patch", "value": %[3]s}]}}`, id, name, patch)
	}
	cached := `"k-d": {"id": "k-d", "name": "run.clean-driver", "displayName": "clean-driver", "type": "Pod", "templateName": "system-container-driver", "phase": "Succeeded", "outputs": {"parameters": [{"name": "cached-decision", "value": "true"}]}}`
	raw := of(`"pipeline/runid": "1", "pipelines.kubeflow.org/pipeline_name": "forecasts"`, "", task("p", "prepare", prepared)+", "+task("t", "train", patch)+", "+cached)
	got := tell(t, raw)
	for _, want := range []string{
		"step U/p-e forecasts/prepare", "makes table uri:s3://mlpipeline/v2/artifacts/p/1/prepare/x/table",
		"step U/t-e forecasts/train", `argv ["python" "-m" "kfp.dsl.executor_main"]`,
		"uses input table uri:s3://mlpipeline/v2/artifacts/p/1/prepare/x/table U/p-e",
		"makes booster uri:s3://mlpipeline/v2/artifacts/p/1/train/y/booster",
		"names model:ml/forecasts/train/booster@U uri:s3://mlpipeline/v2/artifacts/p/1/train/y/booster",
		"gap image-unresolved registry.example.com/train:1", "step U/k-d forecasts/clean",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it is not said that %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "step U/t-d") || strings.Contains(got, "step U/p-d") {
		t.Errorf("drivers pass for tasks:\n%s", got)
	}
	statements, err := Statements([]byte(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		f, err := s.Facts()
		if err != nil {
			t.Fatal(err)
		}
		if f.Step == nil || f.Step.Run != "U/t-e" {
			continue
		}
		if diff := cmp.Diff(map[string]any{"rmse": 0.5}, f.Step.Metrics); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]string{"rounds": "200"}, f.Step.Parameters); diff != "" {
			t.Errorf("parameters (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"api_key"}, f.Step.Secrets); diff != "" {
			t.Errorf("withheld (-want +got):\n%s", diff)
		}
	}
}

// patchOf is a pod-spec-patch as a driver writes it, in JSON twice over.
func patchOf(t *testing.T, image, input string, command ...string) string {
	t.Helper()
	pod, err := json.Marshal(map[string]any{"containers": []any{map[string]any{
		"name": "main", "image": image,
		"command": append([]string{"/kfp-launcher/launch", "--pipeline_name", "forecasts", "--run_id", "1", "--executor_input", input, "--"}, command...),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(string(pod))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
