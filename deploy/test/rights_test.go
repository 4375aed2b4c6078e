package deploy

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/argo"
	"github.com/retrace-ledger/retrace/ingest/csi"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
	"github.com/retrace-ledger/retrace/ingest/kubernetes"
	"github.com/retrace-ledger/retrace/ingest/tekton"
)

// The certificate of the API server is its own.
var insecure = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}

// account applies what gives the service account its rights, in one namespace
// alone if one is named, and returns a token of it.
func account(t *testing.T, within string, components ...string) string {
	t.Helper()
	kubetest.Need(t, server, missing)
	all := render(t, "base", components...)
	for _, kind := range []string{"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"} {
		for _, o := range all {
			if o.Kind != kind {
				continue
			}
			if kind == "ClusterRoleBinding" && within != "" {
				o = narrowed(t, o, within)
			}
			apply(t, &o, "")
			if strings.HasPrefix(kind, "ClusterRole") {
				t.Cleanup(func() { server.Do(t, "DELETE", path(t, &o), nil) })
			}
		}
	}
	return tokenOf(t, path(t, one(t, all, "ServiceAccount", "")))
}

// tokenOf makes a token of a service account.
func tokenOf(t *testing.T, path string) string {
	t.Helper()
	var answer struct{ Status struct{ Token string } }
	raw := server.Do(t, "POST", path+"/token", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": map[string]any{},
	})
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// narrowed is a ClusterRoleBinding as the RoleBinding of one namespace.
func narrowed(t *testing.T, o object, namespace string) object {
	t.Helper()
	var fields map[string]any
	o.decode(t, &fields)
	fields["kind"] = "RoleBinding"
	fields["metadata"].(map[string]any)["namespace"] = namespace
	o.raw = mustJSON(t, fields)
	o.decode(t, &o)
	return o
}

// front stands before the API server, shows a token for its callers and notes
// what they ask for: "list deployments.apps".
type front struct {
	url string

	mu    sync.Mutex
	asked map[string]bool
}

func newFront(t *testing.T, token string) *front {
	t.Helper()
	behind, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(behind)
	proxy.FlushInterval, proxy.Transport = -1, insecure
	f := &front{asked: map[string]bool{}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.asked[access(r)] = true
		f.mu.Unlock()
		r.Header.Set("Authorization", "Bearer "+token)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	f.url = s.URL
	return f
}

// access is what a request needs: a verb, and a resource with its group.
func access(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group := ""
	if parts[0] == "apis" {
		group, parts = "."+parts[1], parts[1:]
	}
	parts = parts[2:] // with the version
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	verb := "list"
	switch {
	case r.Method == http.MethodPost:
		verb = "create"
	case r.Method != http.MethodGet:
		verb = strings.ToLower(r.Method)
	case r.URL.Query().Get("watch") != "":
		verb = "watch"
	case len(parts) > 1:
		verb = "get"
	}
	return verb + " " + parts[0] + group
}

type rule struct {
	APIGroups, Resources, ResourceNames, Verbs []string
}

// rights spells rules out, one resource and verb a line.
func rights(rules []rule) []string {
	all := map[string]bool{}
	for _, r := range rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					all[verb+" "+strings.TrimSuffix(resource+"."+group, ".")] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// read reads a source of the cluster to its end, as a pod would, and returns what
// it asked for.
func read(t *testing.T, kind ingest.Kind, place, token string) []string {
	t.Helper()
	f := newFront(t, token)
	with := mustJSON(t, map[string]string{"kubeconfig": kubetest.Kubeconfig(t, f.url)})
	source, _, err := kind.Open(t.Context(), ingest.Place{URL: place, With: with}, ingest.Env{})
	if err != nil {
		t.Fatal(err)
	}
	statements := 0
	for e, err := range source.Observe(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Fact() {
			statements++
		}
	}
	if statements == 0 {
		t.Errorf("%s found nothing", place)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.asked))
}

// run is a Workflow that has ended, of one step that mounted a claim. Its pod is
// gone.
const run = `{
	"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "forecast-1", "generateName": "forecast-"},
	"spec": {"entrypoint": "train", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "raw"}}], "templates": [
		{"name": "train", "container": {"image": "registry.example.com/train:1", "command": ["train"], "volumeMounts": [{"name": "data", "mountPath": "/raw"}]}}]},
	"status": {"phase": "Succeeded", "startedAt": "2026-08-01T10:00:00Z", "finishedAt": "2026-08-01T10:05:00Z", "nodes": {
		"forecast-1": {"id": "forecast-1", "name": "forecast-1", "displayName": "forecast-1", "type": "Pod", "templateName": "train", "phase": "Succeeded",
			"startedAt": "2026-08-01T10:00:01Z", "finishedAt": "2026-08-01T10:05:00Z"}}}
}`

// taskRun is one of Tekton's that has ended.
const taskRun = `{
	"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": "train-1"}, "spec": {"taskRef": {"name": "train"}},
	"status": {"startTime": "2026-08-01T10:00:00Z", "completionTime": "2026-08-01T10:05:00Z", "conditions": [{"type": "Succeeded", "status": "True", "reason": "Succeeded"}]}
}`

// snapshot is one of that claim.
const snapshot = `{
	"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "raw-1"},
	"spec": {"source": {"persistentVolumeClaimName": "raw"}},
	"status": {"boundVolumeSnapshotContentName": "content-1", "creationTime": "2026-08-01T10:06:00Z", "readyToUse": true}
}`

const deployment = `{
	"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"},
	"spec": {"selector": {"matchLabels": {"app": "api"}}, "template": {"metadata": {"labels": {"app": "api"}},
		"spec": {"containers": [{"name": "api", "image": "registry.example.com/api:1"}]}}}
}`

// world makes a namespace in which there is something of each type.
func world(t *testing.T, namespace string) {
	t.Helper()
	server.Define(t, "argoproj.io", "v1alpha1", "workflows", "Workflow", false)
	server.Define(t, "snapshot.storage.k8s.io", "v1", "volumesnapshots", "VolumeSnapshot", false)
	server.Define(t, "tekton.dev", "v1", "taskruns", "TaskRun", false)
	server.Define(t, "tekton.dev", "v1", "pipelineruns", "PipelineRun", false)
	server.Do(t, "POST", "/apis/argoproj.io/v1alpha1/namespaces/"+namespace+"/workflows", []byte(run))
	server.Do(t, "POST", "/apis/tekton.dev/v1/namespaces/"+namespace+"/taskruns", []byte(taskRun))
	server.Do(t, "POST", "/apis/snapshot.storage.k8s.io/v1/namespaces/"+namespace+"/volumesnapshots", []byte(snapshot))
	server.Do(t, "POST", "/apis/apps/v1/namespaces/"+namespace+"/deployments", []byte(deployment))
}

// TestRights has each kind of source read the cluster with the rights that it is
// given, and holds the rights to what it asked for: a right that nobody uses is
// one too many.
func TestRights(t *testing.T) {
	token := account(t, "", argoPart, tektonPart, csiPart)
	world(t, server.Namespace(t, "rights"))
	for _, tt := range []struct {
		kind ingest.Kind
		role string
	}{
		{kubernetes.Kind(), "retrace-kubernetes"},
		{argo.Kind(), "retrace-argo"},
		{tekton.Kind(), "retrace-tekton"},
		{csi.Kind(), "retrace-csi"},
	} {
		var role struct{ Rules []rule }
		one(t, render(t, "base", argoPart, tektonPart, csiPart), "ClusterRole", tt.role).decode(t, &role)
		asked, may := read(t, tt.kind, tt.kind.Name+"://cluster", token), rights(role.Rules)
		t.Logf("%s asks to %s", tt.kind.Name, strings.Join(asked, ", "))
		if !slices.Equal(asked, may) {
			t.Errorf("%s asks to\n  %s\nand may\n  %s", tt.kind.Name, strings.Join(asked, "\n  "), strings.Join(may, "\n  "))
		}
	}
}

// TestOneNamespace binds the same roles in one namespace: it can be read, and no
// other.
func TestOneNamespace(t *testing.T) {
	kubetest.Need(t, server, missing)
	namespace := server.Namespace(t, "narrow")
	token := account(t, namespace, argoPart, tektonPart, csiPart)
	world(t, namespace)
	for _, kind := range []ingest.Kind{kubernetes.Kind(), argo.Kind(), tekton.Kind(), csi.Kind()} {
		read(t, kind, kind.Name+"://cluster/"+namespace, token)
	}
	ask(t, token, "GET", "/api/v1/namespaces/"+namespace+"/pods", nil, http.StatusOK)
	ask(t, token, "GET", "/api/v1/namespaces/default/pods", nil, http.StatusForbidden)
	ask(t, token, "GET", "/api/v1/pods", nil, http.StatusForbidden)
}

// TestNoMoreRights asks the API server for all that the service account may do,
// and tries what it must not.
func TestNoMoreRights(t *testing.T) {
	kubetest.Need(t, server, missing)
	// What every service account may do, such as to ask who it is.
	accounts := "/api/v1/namespaces/" + server.Namespace(t, "nobody") + "/serviceaccounts"
	server.Do(t, "POST", accounts, map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "nobody"}})
	nobody := tokenOf(t, accounts+"/nobody")
	for _, components := range [][]string{nil, {argoPart}, {argoPart, tektonPart}, {csiPart}, {csiPart, takePart}} {
		t.Run(fmt.Sprint(components), func(t *testing.T) {
			token := account(t, "", components...)
			var want []rule
			for _, o := range render(t, "base", components...) {
				if o.Kind == "ClusterRole" || o.Kind == "Role" {
					var role struct{ Rules []rule }
					o.decode(t, &role)
					want = append(want, role.Rules...)
				}
			}
			for _, namespace := range []string{"retrace", "default", "kube-system"} {
				got, may := mayDo(t, token, namespace), append(rights(want), mayDo(t, nobody, namespace)...)
				slices.Sort(may)
				if !slices.Equal(got, slices.Compact(may)) {
					t.Errorf("in %s it may\n  %s\nwant\n  %s", namespace, strings.Join(got, "\n  "), strings.Join(may, "\n  "))
				}
			}

			ask(t, token, "GET", "/api/v1/pods", nil, http.StatusOK)
			if !slices.Contains(components, takePart) {
				ask(t, token, "POST", "/apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots", map[string]any{}, http.StatusForbidden)
				ask(t, token, "DELETE", "/apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots/raw", map[string]any{}, http.StatusForbidden)
			}
			for _, no := range []struct{ method, path string }{
				{"PATCH", "/apis/snapshot.storage.k8s.io/v1/namespaces/default/volumesnapshots/raw"},
				{"DELETE", "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/content-1"},
				{"DELETE", "/api/v1/namespaces/default/persistentvolumeclaims/raw"},
				{"POST", "/api/v1/namespaces/default/persistentvolumeclaims"},
				{"GET", "/api/v1/secrets"},
				{"GET", "/api/v1/namespaces/retrace/secrets/retrace-tls"},
				{"GET", "/api/v1/configmaps"},
				{"GET", "/api/v1/namespaces/default/pods/api/log"},
				{"GET", "/api/v1/namespaces/default/pods/api/exec?command=sh"},
				{"POST", "/api/v1/namespaces/default/pods/api/exec?command=sh"},
				{"POST", "/api/v1/namespaces/retrace/serviceaccounts/retrace/token"},
				{"POST", "/api/v1/namespaces/retrace/pods"},
				{"DELETE", "/api/v1/namespaces/default/pods/api"},
				{"DELETE", "/api/v1/nodes/one"},
				{"PATCH", "/apis/apps/v1/namespaces/default/deployments/api"},
				{"PUT", "/apis/apps/v1/namespaces/retrace/statefulsets/retrace"},
				{"DELETE", "/apis/argoproj.io/v1alpha1/namespaces/default/workflows/forecast"},
				{"DELETE", "/apis/tekton.dev/v1/namespaces/default/taskruns/train"},
				{"POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"},
			} {
				ask(t, token, no.method, no.path, map[string]any{}, http.StatusForbidden)
			}
		})
	}
}

// mayDo is all that the API server lets a service account do in a namespace.
func mayDo(t *testing.T, token, namespace string) []string {
	t.Helper()
	raw := ask(t, token, "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": map[string]any{"namespace": namespace},
	}, http.StatusCreated)
	var review struct {
		Status struct {
			ResourceRules    []rule
			NonResourceRules []struct{ Verbs, NonResourceURLs []string }
			Incomplete       bool
		}
	}
	if err := json.Unmarshal(raw, &review); err != nil {
		t.Fatal(err)
	}
	if review.Status.Incomplete {
		t.Error("the API server does not know all")
	}
	all := rights(review.Status.ResourceRules)
	for _, r := range review.Status.NonResourceRules {
		for _, verb := range r.Verbs {
			for _, path := range r.NonResourceURLs {
				all = append(all, verb+" "+path)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ask sends a request of the service account, which is to be answered with a
// status.
func ask(t *testing.T, token, method, path string, body any, want int) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, bytes.NewReader(mustJSON(t, body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := (&http.Client{Transport: insecure}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Errorf("%s %s: %d, want %d\n%.300s", method, path, resp.StatusCode, want, raw)
	}
	return raw
}
