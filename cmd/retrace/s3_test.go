package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ingest/s3/s3test"
)

// TestObjects has a recorded run leave its model in a MinIO: the bytes get a
// digest, the model's lineage shows them, and after somebody overwrote them they
// are restored by their version.
func TestObjects(t *testing.T) {
	t.Parallel()
	store := s3test.Start(t)
	bucket := store.Bucket(t, true)
	store.Put(t, bucket, "forecast-x7k2p/table.csv", "a,b\n1,2\n")
	store.Put(t, bucket, "forecast-x7k2p/model/weights.bin", "weights of the model")
	dir := t.TempDir()
	// The run ended before what is written below, by more than clocks differ.
	started := time.Now().UTC()
	const slack = 2 * time.Minute
	time.Sleep(1100 * time.Millisecond)
	end := started.Add(-slack + time.Second)
	workflow := map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
		"metadata": map[string]any{"name": "forecast-x7k2p", "generateName": "forecast-", "namespace": "ml", "uid": "558a8d47"},
		"spec":     map[string]any{"templates": []any{map[string]any{"name": "train", "container": map[string]any{"image": "train:1", "command": []string{"train"}}}}},
		"status": map[string]any{
			"phase": "Succeeded", "startedAt": end, "finishedAt": end,
			"artifactRepositoryRef": map[string]any{"artifactRepository": map[string]any{"s3": map[string]any{"bucket": bucket}}},
			"nodes": map[string]any{"b": map[string]any{
				"id": "b", "name": "forecast-x7k2p.train", "displayName": "train", "type": "Pod", "templateName": "train", "phase": "Succeeded",
				"startedAt": end, "finishedAt": end,
				"inputs":  map[string]any{"artifacts": []any{map[string]any{"name": "table", "s3": map[string]any{"key": "forecast-x7k2p/table.csv"}}}},
				"outputs": map[string]any{"artifacts": []any{map[string]any{"name": "model", "s3": map[string]any{"key": "forecast-x7k2p/model"}}}},
			}},
		},
	}
	raw, err := json.Marshal(workflow)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "run.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	done(t, dir, "init")
	done(t, dir, "record", "run.json")

	with := func(args ...string) string {
		t.Helper()
		cmd := retraceCommand(t, dir, args...)
		cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL="+store.URL, "AWS_ACCESS_KEY_ID="+s3test.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3test.SecretKey)
		out, err := cmd.Output()
		if ended := (*exec.ExitError)(nil); err != nil {
			if errors.As(err, &ended) {
				t.Fatalf("retrace %s: %v: %s%s", strings.Join(args, " "), err, out, ended.Stderr)
			}
			t.Fatal(err)
		}
		return string(out)
	}
	const model = "ml/forecast/train/model"
	if out := with("watch", "--once", "s3://"+bucket); !strings.Contains(out, "2 recorded") {
		t.Fatalf("watching the bucket: %s", out)
	}
	var lineage struct {
		Resources []struct {
			Digest string `json:"digest"`
			URI    string `json:"uri"`
		} `json:"resources"`
		Edges []struct {
			Relation string `json:"relation"`
		} `json:"edges"`
	}
	if err := json.Unmarshal([]byte(with("lineage", model, "-o", "json")), &lineage); err != nil {
		t.Fatal(err)
	}
	holds := 0
	for _, e := range lineage.Edges {
		if e.Relation == "holds" {
			holds++
		}
	}
	if holds != 2 {
		t.Errorf("the lineage has %d locations whose bytes are known, want those of the model and of the table: %+v", holds, lineage)
	}
	if out, _, _ := retrace(t, dir, "gaps", model); strings.Contains(out, "no-digest") || strings.Contains(out, "location-reused") {
		t.Errorf("gaps of what was hashed:\n%s", out)
	}

	store.Put(t, bucket, "forecast-x7k2p/model/weights.bin", "somebody wrote over them")
	with("restore", model, "--to", filepath.Join(dir, "back"))
	found := ""
	err = filepath.WalkDir(filepath.Join(dir, "back"), func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "weights.bin" {
			found = name
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(found); err != nil || string(got) != "weights of the model" {
		t.Errorf("restored %q: %q (%v)", found, got, err)
	}
}
