package kubernetes

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/ingest/kube"
	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
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

// world is a namespace of the API server, behind something that can break.
type world struct {
	namespace string
	front     *kubetest.Front
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kubetest.Need(t, server, missing)
	server.Define(t, "serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", false)
	server.Define(t, "argoproj.io", "v1alpha1", "applications", "Application", false)
	server.Define(t, "kustomize.toolkit.fluxcd.io", "v1", "kustomizations", "Kustomization", false)
	server.Define(t, "source.toolkit.fluxcd.io", "v1", "gitrepositories", "GitRepository", false)
	w := &world{namespace: server.Namespace(t, "k8s"), front: server.Front(t)}
	return w
}

func (w *world) open(t *testing.T) ingest.Source {
	t.Helper()
	with, err := json.Marshal(kube.Settings{Kubeconfig: kubetest.Kubeconfig(t, w.front.URL)})
	if err != nil {
		t.Fatal(err)
	}
	src, name, err := Kind().Open(t.Context(), ingest.Place{URL: "kubernetes://prod/" + w.namespace, With: with}, ingest.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "kubernetes://prod/" + w.namespace; name != want {
		t.Fatalf("the name of the source is %s, want %s", name, want)
	}
	return src
}

func (w *world) create(t *testing.T, group, plural string, object map[string]any) map[string]any {
	t.Helper()
	path := "/apis/" + group + "/namespaces/" + w.namespace + "/" + plural
	if group == "v1" {
		path = "/api/v1/namespaces/" + w.namespace + "/" + plural
	}
	var made map[string]any
	if err := json.Unmarshal(server.Do(t, "POST", path, object), &made); err != nil {
		t.Fatal(err)
	}
	return made
}

func uid(object map[string]any) string {
	return object["metadata"].(map[string]any)["uid"].(string)
}

func meta(name string, owner map[string]any, labels map[string]string) map[string]any {
	m := map[string]any{"name": name, "labels": labels}
	if owner != nil {
		m["ownerReferences"] = []any{map[string]any{
			"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"].(map[string]any)["name"], "uid": uid(owner), "controller": true,
		}}
	}
	return m
}

func podSpecOf(image string) map[string]any {
	return map[string]any{"containers": []any{map[string]any{"name": "api", "image": image}}}
}

// deployment creates a Deployment with its ReplicaSet, as its controller would.
func (w *world) deployment(t *testing.T, name, image string) (replicaSet map[string]any) {
	t.Helper()
	labels := map[string]string{"app": name}
	spec := map[string]any{
		"selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": podSpecOf(image)},
	}
	d := w.create(t, "apps/v1", "deployments", map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name, nil, labels), "spec": spec})
	d["apiVersion"], d["kind"] = "apps/v1", "Deployment"
	rs := w.create(t, "apps/v1", "replicasets", map[string]any{"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": meta(name+"-1", d, labels), "spec": spec})
	rs["apiVersion"], rs["kind"] = "apps/v1", "ReplicaSet"
	return rs
}

// pod creates a running pod of an owner, or with labels that say whose it is.
func (w *world) pod(t *testing.T, name string, owner map[string]any, labels map[string]string, image, imageID string) {
	t.Helper()
	w.create(t, "v1", "pods", map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, owner, labels), "spec": podSpecOf(image)})
	server.Do(t, "PATCH", "/api/v1/namespaces/"+w.namespace+"/pods/"+name+"/status", map[string]any{"status": map[string]any{
		"phase": "Running", "containerStatuses": []any{map[string]any{"name": "api", "image": image, "imageID": imageID, "ready": true, "restartCount": 0}},
	}})
}

func (w *world) remove(t *testing.T, path string) {
	t.Helper()
	server.Do(t, "DELETE", path, map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})
}

func digestOf(c string) string { return "sha256:" + strings.Repeat(c, 64) }

const repository = "registry.example.com/ml/api"

func TestLaw(t *testing.T) {
	ingesttest.Test(t, func(t *testing.T) *ingesttest.World {
		w := newWorld(t)
		for i := range 3 {
			name := fmt.Sprintf("api-%d", i)
			rs := w.deployment(t, name, repository+":1")
			w.pod(t, name+"-a", rs, nil, repository+":1", repository+"@"+digestOf("a"))
		}
		return &ingesttest.World{
			Open:   w.open,
			Change: func(t *testing.T) { w.deployment(t, "new", repository+":2") },
			Break:  func(*testing.T) { w.front.Break() },
		}
	})
}

// look reads what is new: of each workload, what it is now.
func (w *world) look(t *testing.T, src ingest.Source, cursor *string) []string {
	t.Helper()
	var said []string
	for e, err := range src.Observe(t.Context(), *cursor) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Cursor != "" {
			*cursor = e.Cursor
		}
		if !e.Fact() {
			continue
		}
		var p schema.Deployment
		if err := schema.DecodePredicate(e.Statement, true, &p); err != nil {
			t.Fatal(err)
		}
		line := strings.TrimPrefix(p.Workload, "prod/"+w.namespace+"/")
		for _, c := range p.Containers {
			line += fmt.Sprintf(" %s=%.12s", c.Name, strings.TrimPrefix(c.Digest, "sha256:"))
		}
		for _, m := range p.Models {
			line += " serves " + m.URI
		}
		if p.Revision != nil {
			line += fmt.Sprintf(" of %.7s by %s claimed=%t", p.Revision.Commit, strings.ReplaceAll(p.Revision.By, w.namespace, "NS"), p.Revision.Claimed)
		}
		if p.Deleted {
			line += " deleted"
		}
		if p.Previous != "" {
			line += " after another"
		}
		said = append(said, line)
	}
	return said
}

// TestHistory follows a workload: pods that come and go are no facts, a rollout
// is, there and back, and so is that it is gone and made anew.
func TestHistory(t *testing.T) {
	w := newWorld(t)
	src, cursor := w.open(t), ""
	pods := "/api/v1/namespaces/" + w.namespace + "/pods/"
	step := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, w.look(t, src, &cursor)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	rs := w.deployment(t, "api", repository+":1")
	step("before any pod", "Deployment/api api=")
	w.pod(t, "a", rs, nil, repository+":1", "docker-pullable://"+repository+"@"+digestOf("a"))
	step("a pod runs", "Deployment/api api=aaaaaaaaaaaa after another")
	w.pod(t, "b", rs, nil, repository+":1", repository+"@"+digestOf("a"))
	w.remove(t, pods+"a")
	step("another pod with the same image")
	w.pod(t, "c", rs, nil, repository+":1", digestOf("c"))
	step("two images at once", "Deployment/api api=aaaaaaaaaaaa api=cccccccccccc after another")
	w.remove(t, pods+"b")
	step("rolled out", "Deployment/api api=cccccccccccc after another")
	w.pod(t, "d", rs, nil, repository+":1", repository+"@"+digestOf("a"))
	w.remove(t, pods+"c")
	step("and back", "Deployment/api api=aaaaaaaaaaaa after another")
	w.remove(t, "/apis/apps/v1/namespaces/"+w.namespace+"/deployments/api")
	step("gone", "Deployment/api deleted after another")
	w.remove(t, "/apis/apps/v1/namespaces/"+w.namespace+"/replicasets/api-1")
	w.remove(t, pods+"d")
	w.deployment(t, "api", repository+":1")
	step("made anew", "Deployment/api api=")
}

// TestServing reads what serves a model, and the commits that Argo CD, Flux and a
// label say workloads are of.
func TestServing(t *testing.T) {
	w := newWorld(t)
	commit := func(c string) string { return strings.Repeat(c, 40) }
	w.create(t, "serving.kserve.io/v1beta1", "inferenceservices", map[string]any{
		"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": meta("forecast", nil, nil),
		"spec": map[string]any{"predictor": map[string]any{"minReplicas": 1, "model": map[string]any{"modelFormat": map[string]any{"name": "sklearn"}, "storageUri": "s3://models/forecast/7/"}}},
	})
	rs := w.deployment(t, "forecast-predictor", repository+":1")
	w.pod(t, "forecast-1", rs, map[string]string{"serving.kserve.io/inferenceservice": "forecast"}, repository+":1", repository+"@"+digestOf("a"))
	w.deployment(t, "web", repository+":1")
	w.create(t, "apps/v1", "statefulsets", map[string]any{
		"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": map[string]any{"name": "store", "labels": map[string]any{revisionLabel: commit("3")}},
		"spec": map[string]any{"serviceName": "store", "selector": map[string]any{"matchLabels": map[string]any{"a": "b"}}, "template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}, "spec": podSpecOf(repository + ":1")}},
	})
	w.create(t, "argoproj.io/v1alpha1", "applications", map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": meta("app", nil, nil),
		"status": map[string]any{
			"sync":      map[string]any{"revision": commit("9")}, // compared with, not deployed
			"history":   []any{map[string]any{"id": 1, "revision": commit("8")}, map[string]any{"id": 2, "revision": commit("1"), "source": map[string]any{"repoURL": "https://u:p@git.example.com/deploy"}}},
			"resources": []any{map[string]any{"group": "serving.kserve.io", "kind": "InferenceService", "namespace": w.namespace, "name": "forecast"}},
		},
	})
	w.create(t, "kustomize.toolkit.fluxcd.io/v1", "kustomizations", map[string]any{
		"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": meta("infra", nil, nil),
		"spec":   map[string]any{"sourceRef": map[string]any{"kind": "GitRepository", "name": "infra"}},
		"status": map[string]any{"lastAppliedRevision": "main@sha1:" + commit("2"), "inventory": map[string]any{"entries": []any{map[string]any{"id": w.namespace + "_web_apps_Deployment", "v": "v1"}}}},
	})
	cursor := ""
	want := []string{
		"Deployment/forecast-predictor api=",
		"Deployment/web api= of 2222222 by flux:NS/infra claimed=false",
		"InferenceService/forecast api=aaaaaaaaaaaa serves s3://models/forecast/7 of 1111111 by argocd:NS/app claimed=false",
		"StatefulSet/store api= of 3333333 by label org.opencontainers.image.revision claimed=true",
	}
	if diff := cmp.Diff(want, w.look(t, w.open(t), &cursor)); diff != "" {
		t.Errorf("what runs (-want +got):\n%s", diff)
	}
}

// TestOdd says of an object that cannot be read that it was left out, once, and of
// the others what they are.
func TestOdd(t *testing.T) {
	w := newWorld(t)
	w.deployment(t, "api", repository+":1")
	w.create(t, "serving.kserve.io/v1beta1", "inferenceservices", map[string]any{
		"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": meta("odd", nil, nil), "spec": []any{"no", "object"},
	})
	src, cursor := w.open(t), ""
	for round, want := range []struct{ facts, left int }{{1, 1}, {0, 0}} {
		facts, left := 0, 0
		for e, err := range src.Observe(t.Context(), cursor) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Fact() {
				facts++
			}
			if e.Skipped != nil {
				left++
			}
			if e.Cursor != "" {
				cursor = e.Cursor
			}
		}
		if facts != want.facts || left != want.left {
			t.Errorf("read %d gave %d facts and left out %d, want %+v", round, facts, left, want)
		}
	}
}

// TestContext reads a cluster by the name of a context of the user's own.
func TestContext(t *testing.T) {
	w := newWorld(t)
	w.deployment(t, "api", repository+":1")
	t.Setenv("KUBECONFIG", kubetest.Kubeconfig(t, w.front.URL))
	src, name, err := Kind().Open(t.Context(), ingest.Place{URL: "kube://test/" + w.namespace}, ingest.Env{})
	if err != nil || name != "kubernetes://test/"+w.namespace {
		t.Fatalf("the name of the source is %s (%v)", name, err)
	}
	n := 0
	for e, err := range src.Observe(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Fact() {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d workloads, want 1", n)
	}
	if _, _, err := Kind().Open(t.Context(), ingest.Place{URL: "kube://nowhere"}, ingest.Env{}); err == nil {
		t.Error("a context that is not there is taken")
	}
}

// TestFacts has one state reach images, model and commit.
func TestFacts(t *testing.T) {
	w := &workload{
		id: "ml/Deployment/api", kind: "Deployment", uid: "u", models: []string{"s3://models/7"},
		ran: map[schema.RunningContainer]bool{{Name: "api", Image: repository + ":1", Digest: digestOf("a")}: true},
		rev: &schema.AppliedRevision{Commit: strings.Repeat("1", 40), By: "argocd:argocd/app"},
	}
	at := position{Known: map[string]stated{}}
	st, err := (&source{cluster: "prod"}).state(&at, w.id, w)
	if err != nil {
		t.Fatal(err)
	}
	f, err := st.Facts()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]schema.Key{}
	for _, r := range f.Relations {
		if r.From != f.Subjects[0] {
			t.Errorf("a relation of %s, want all of the state %s", r.From, f.Subjects[0])
		}
		found[r.Kind] = r.To
	}
	want := map[string]schema.Key{schema.RelRuns: schema.Key(digestOf("a")), schema.RelServes: schema.URIKey("s3://models/7"), schema.RelApplied: schema.Key("gitCommit:" + strings.Repeat("1", 40))}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("relations (-want +got):\n%s", diff)
	}
	text, err := at.encode()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := parsePosition(text); err != nil || !cmp.Equal(again, at) {
		t.Errorf("the cursor %s reads as %v (%v)", text, again, err)
	}
}

// FuzzWorkload reads objects of anything.
func FuzzWorkload(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"a","annotations":{"retrace.dev/model":"s3://b/k"}},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}}}`))
	f.Add([]byte(`{"spec":{"predictor":{"model":{"storageUri":"s3://b/k"},"storageUris":[{"uri":"pvc://c/k"}]}}}`))
	f.Add([]byte(`{"spec":{"predictor":1}}`))
	f.Add([]byte(`{"status":{"history":[{"revision":"x"}],"resources":[{"kind":"D"}]}}`))
	f.Add([]byte(`{"status":{"lastAppliedRevision":"main@sha1:@","inventory":{"entries":[{"id":"a_b_c_d"}]}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, typ := range workloadTypes {
			w, err := newWorkload(kube.Object{Type: typ, Raw: raw})
			if err != nil {
				continue
			}
			w.id = "n/" + typ.Kind + "/name"
			at := position{Known: map[string]stated{}}
			_, _ = (&source{cluster: "c"}).state(&at, w.id, w)
		}
		found := map[string]*schema.AppliedRevision{}
		_ = deployed(kube.Object{Raw: raw}, found)
		_ = applied(kube.Object{Raw: raw}, nil, found)
	})
}

// TestRemarks reads who changed an object, and why, from what its annotations
// say: not endlessly, and no secrets.
func TestRemarks(t *testing.T) {
	for cause, want := range map[string]string{
		"kubectl set image deployment/api api=api:v7": "kubectl set image deployment/api api=api:v7",
		"":                       "",
		strings.Repeat("é", 400): strings.Repeat("é", 254) + "…",
		"pushed with https://ada:hunter2hunter2@git.example/x": "",
	} {
		raw, err := json.Marshal(map[string]any{"metadata": map[string]any{"name": "a", "namespace": "n",
			"annotations":   map[string]string{"kubernetes.io/change-cause": cause, "openshift.io/requester": "ada"},
			"managedFields": []any{map[string]any{"manager": "kubectl", "time": "2026-01-02T03:04:05Z"}}}})
		if err != nil {
			t.Fatal(err)
		}
		o := kube.Object{Type: workloadTypes[0], Raw: raw}
		o.Meta.Annotations = map[string]string{"kubernetes.io/change-cause": cause, "openshift.io/requester": "ada"}
		w, err := newWorkload(o)
		if err != nil {
			t.Fatal(err)
		}
		if w.changed.By != "kubectl" || w.changed.User != "ada" || w.changed.Cause != want {
			t.Errorf("%.40q gives %+v, want the cause %.40q", cause, *w.changed, want)
		}
	}
}
