package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
	"github.com/retrace-ledger/retrace/ingest/s3/s3test"
)

// pushCommit makes a repository below root with one commit, and returns that.
func pushCommit(t *testing.T, root, repository string) string {
	t.Helper()
	git := need(t, "git")
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(git, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME=/nonexistent",
			"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("init", "-q", "-b", "main", repository)
	if err := os.WriteFile(filepath.Join(root, repository, "train.py"), []byte("print('train')\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("-C", repository, "add", "-A")
	run("-C", repository, "commit", "-q", "-m", "train the forecast")
	return run("-C", repository, "rev-parse", "HEAD")
}

// pushBuilt pushes an image that its labels say was built of a commit.
func pushBuilt(t *testing.T, reference, source, commit string) string {
	t.Helper()
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{Labels: map[string]string{
		"org.opencontainers.image.revision": commit, "org.opencontainers.image.source": source,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
	// Runtimes without a registry name an image by its configuration.
	config, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return config.String()
}

// TestFromCommitToDeployment follows a model from the commit to what serves it,
// on real parts: Git over HTTP, a registry, the API server of Kubernetes, MinIO.
// The pod names its image by the digest of its configuration, the model has no
// digest but that of the object store, and the deployment names a location.
func TestFromCommitToDeployment(t *testing.T) {
	if testing.Short() {
		t.Skip("runs an API server of Kubernetes")
	}
	t.Parallel()
	kube, err := kubetest.Start()
	kubetest.Need(t, kube, err)
	defer kube.Stop()
	store := s3test.Start(t)
	bucket := store.Bucket(t, true)
	root := t.TempDir()
	commit := pushCommit(t, root, "forecast")
	web := httptest.NewServer(&cgi.Handler{Path: need(t, "git"), Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"}})
	defer web.Close()
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer images.Close()
	trainer := strings.TrimPrefix(images.URL, "http://") + "/ml/trainer"
	config := pushBuilt(t, trainer+":v1", web.URL+"/forecast", commit)

	kube.Define(t, "argoproj.io", "v1alpha1", "workflows", "Workflow", false)
	kube.Define(t, "serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", false)
	ns := kube.Namespace(t, "ml")
	kube.Do(t, "POST", "/api/v1/namespaces/"+ns+"/pods", map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "forecast-1-b"},
		"spec": map[string]any{"containers": []any{map[string]any{"name": "main", "image": trainer + ":v1"}}},
	})
	kube.Do(t, "PATCH", "/api/v1/namespaces/"+ns+"/pods/forecast-1-b/status", map[string]any{"status": map[string]any{
		"phase": "Succeeded", "containerStatuses": []any{map[string]any{"name": "main", "image": trainer + ":v1", "imageID": config, "restartCount": 0, "ready": false}},
	}})
	store.Put(t, bucket, "forecast-1/model/model.bin", "weights")
	now := time.Now().UTC()
	kube.Do(t, "POST", "/apis/argoproj.io/v1alpha1/namespaces/"+ns+"/workflows", map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": map[string]any{"name": "forecast-1", "generateName": "forecast-"},
		"spec": map[string]any{
			"arguments": map[string]any{"parameters": []any{map[string]any{"name": "region", "value": "north"}}},
			"templates": []any{map[string]any{"name": "train", "container": map[string]any{"image": trainer + ":v1", "command": []string{"train"}}}},
		},
		"status": map[string]any{
			"phase": "Succeeded", "startedAt": now.Add(-time.Minute), "finishedAt": now,
			"artifactRepositoryRef": map[string]any{"artifactRepository": map[string]any{"s3": map[string]any{"bucket": bucket}}},
			"nodes": map[string]any{"forecast-1-b": map[string]any{
				"id": "forecast-1-b", "name": "forecast-1.train", "displayName": "train", "type": "Pod", "templateName": "train", "phase": "Succeeded",
				"startedAt": now.Add(-time.Minute), "finishedAt": now,
				"outputs": map[string]any{"artifacts": []any{map[string]any{"name": "model", "s3": map[string]any{"key": "forecast-1/model"}}}},
			}},
		},
	})
	kube.Do(t, "POST", "/apis/serving.kserve.io/v1beta1/namespaces/"+ns+"/inferenceservices", map[string]any{
		"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": map[string]any{"name": "forecast"},
		"spec": map[string]any{"predictor": map[string]any{"model": map[string]any{"storageUri": "s3://" + bucket + "/forecast-1/model/"}}},
	})

	dir := t.TempDir()
	for file, text := range map[string]string{"access": s3test.AccessKey, "secret": s3test.SecretKey} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done(t, dir, "init")
	address, stop := serveSources(t, dir, fmt.Sprintf(`  - url: git+%s/forecast
  - url: oci://%s
  - url: argo://prod/%s
    with: {kubeconfig: %s}
  - url: s3://%s
    with: {endpoint: %q, accessKey: {file: %s/access}, secretKey: {file: %s/secret}}
  - url: kubernetes://prod/%s
    with: {kubeconfig: %s}
models:
  - match: {task: train}
    name: "{pipeline}/{param.region}"
    version: "{run}"
`, web.URL, trainer, ns, kube.Kubeconfig, bucket, store.URL, dir, dir, ns, kube.Kubeconfig))
	defer stop()

	workload := "workload:prod/" + ns + "/InferenceService/forecast"
	var out string
	await(t, "the lineage of the deployment to be whole", func() bool {
		var status int
		out, _, status = retrace(t, dir, "lineage", workload, "-o", "json")
		return status == 0 && strings.Contains(out, "gitCommit:"+commit) && strings.Contains(out, `"holds"`)
	})
	var lineage struct {
		Edges []struct {
			Relation string `json:"relation"`
			Role     string `json:"role"`
			Evidence string `json:"evidence"`
		} `json:"edges"`
	}
	if err := json.Unmarshal([]byte(out), &lineage); err != nil {
		t.Fatal(err)
	}
	evidence := map[string]string{}
	for _, e := range lineage.Edges {
		evidence[strings.Trim(e.Relation+" "+e.Role, " ")] = e.Evidence
	}
	for relation, want := range map[string]string{"serves": "observed", "holds": "observed", "used image": "observed", "configOf": "observed", "builtOf": "claimed"} {
		if evidence[relation] != want {
			t.Errorf("the lineage has %s as %q, want %q: %s", relation, evidence[relation], want, out)
		}
	}
	if out := done(t, dir, "lineage", "--down", "git:"+commit, "-o", "json"); !strings.Contains(out, workload) {
		t.Errorf("what came of the commit does not reach the deployment:\n%s", out)
	}
	if out := done(t, dir, "models"); !strings.Contains(out, "forecast/north@") {
		t.Errorf("the model is not named by the rule:\n%s", out)
	}
	done(t, dir, "prove", workload, "--bundle", "deployment.bundle")
	if out := done(t, dir, "verify", "deployment.bundle", "--key", filepath.Join(dirName, "log.vkey")); !strings.Contains(out, "OK") {
		t.Errorf("the bundle of the deployment: %s", out)
	}
	ask := `{"query":"{ workloads(namespace: \"` + ns + `\") { nodes { name model { uri } } } lineage(ref: \"` + workload + `\") { resources { digest } } }"}`
	resp, err := http.Post("http://"+address+"/graphql", "application/json", strings.NewReader(ask))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			Workloads struct {
				Nodes []struct {
					Name  string
					Model struct{ URI string }
				}
			}
			Lineage struct{ Resources []struct{ Digest string } }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if nodes := answer.Data.Workloads.Nodes; len(nodes) != 1 || nodes[0].Model.URI != "s3://"+bucket+"/forecast-1/model" {
		t.Errorf("workloads by GraphQL: %+v", nodes)
	}
	found := false
	for _, r := range answer.Data.Lineage.Resources {
		found = found || r.Digest == "gitCommit:"+commit
	}
	if !found {
		t.Errorf("the lineage by GraphQL has no commit: %+v", answer.Data.Lineage)
	}
	// What is served, judged: the bytes at the place are those that a recorded step
	// left. A place that nobody recorded anything of fails.
	check := []string{"audit", "--kubeconfig", kube.Kubeconfig, "--namespace", ns, "--cluster", "prod"}
	if out, errs, status := retrace(t, dir, check...); status != 2 || !strings.Contains(out, "pass     model     s3://"+bucket+"/forecast-1/model: retraceTree1:") || !strings.Contains(out, "nobody says which images it runs") {
		t.Errorf("an audit of the model that is served: %d %s%s", status, out, errs)
	}
	kube.Do(t, "PATCH", "/apis/serving.kserve.io/v1beta1/namespaces/"+ns+"/inferenceservices/forecast", map[string]any{
		"spec": map[string]any{"predictor": map[string]any{"model": map[string]any{"storageUri": "s3://" + bucket + "/elsewhere/"}}},
	})
	if out, errs, status := retrace(t, dir, check...); status != 1 || !strings.Contains(out, "fail     model     s3://"+bucket+"/elsewhere: the ledger has no record of what is there") {
		t.Errorf("an audit of a model with unknown bytes: %d %s%s", status, out, errs)
	}
	restoredByServer(t, dir, address, "forecast/north", "weights")
	t.Log(done(t, dir, "lineage", workload))
}

// restoredByServer has a server bring a model back from the store that its
// configuration names, with the credentials that stand there.
func restoredByServer(t *testing.T, dir, address, model, want string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, dirName, "server.json"))
	if err != nil {
		t.Fatal(err)
	}
	var at client.Address
	if err := json.Unmarshal(raw, &at); err != nil {
		t.Fatal(err)
	}
	ask := func(query string, answer any) {
		t.Helper()
		body, err := json.Marshal(map[string]string{"query": query})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/graphql", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+at.Token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
			t.Fatal(err)
		}
	}
	var begun struct {
		Data   struct{ Restore struct{ ID string } }
		Errors []struct{ Message string }
	}
	ask(`mutation { restore(ref: "`+model+`") { id } }`, &begun)
	if begun.Data.Restore.ID == "" {
		t.Fatalf("the server began no restoration: %+v", begun.Errors)
	}
	var now struct {
		Data struct {
			Restoration struct{ State, Verdict, Problem, Place string }
		}
	}
	await(t, "the restoration", func() bool {
		ask(`{ restoration(id: "`+begun.Data.Restore.ID+`") { state verdict place } }`, &now)
		return now.Data.Restoration.State != "RUNNING"
	})
	found := ""
	_ = filepath.WalkDir(filepath.Join(dir, dirName, "restorations"), func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "model.bin" {
			found = name
		}
		return err
	})
	if got, err := os.ReadFile(found); err != nil || string(got) != want {
		t.Errorf("the server restored %q: %q (%v); %+v", found, got, err, now.Data.Restoration)
	}
}
