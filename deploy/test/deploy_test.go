// Package deploy holds the manifests to a real API server of Kubernetes: that it
// takes every object, lets the pod in where pods are restricted, and gives the
// service account what the sources ask for and nothing else. It is a module of
// its own: what renders kustomizations is not needed to run retrace.
package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

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

// object is one rendered object.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`

	raw []byte // JSON
}

func (o *object) String() string { return o.Kind + " " + o.Metadata.Name }

// decode decodes the object into v.
func (o *object) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(o.raw, v); err != nil {
		t.Fatalf("%s: %v", o, err)
	}
}

// render renders a folder of deploy with components.
func render(t *testing.T, dir string, components ...string) []object {
	t.Helper()
	here, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	rel := func(name string) string {
		root, err := filepath.Abs("..")
		if err == nil {
			root, err = filepath.EvalSymlinks(root)
		}
		if err == nil {
			root, err = filepath.Rel(here, filepath.Join(root, name))
		}
		if err != nil {
			t.Fatal(err)
		}
		return root
	}
	k := map[string]any{"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": []string{rel(dir)}}
	var with []string
	for _, c := range components {
		with = append(with, rel(c))
	}
	k["components"] = with
	if err := os.WriteFile(filepath.Join(here, "kustomization.yaml"), mustJSON(t, k), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), here)
	if err != nil {
		t.Fatalf("rendering %s with %v: %v", dir, components, err)
	}
	var all []object
	for _, r := range found.Resources() {
		raw, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		o := object{raw: raw}
		o.decode(t, &o)
		all = append(all, o)
	}
	return all
}

// one is the object of a kind, or the named one.
func one(t *testing.T, all []object, kind, name string) *object {
	t.Helper()
	i := slices.IndexFunc(all, func(o object) bool { return o.Kind == kind && (name == "" || o.Metadata.Name == name) })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return &all[i]
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// path is where the API server has the object.
func path(t *testing.T, o *object) string {
	t.Helper()
	root := "/api/" + o.APIVersion
	if strings.Contains(o.APIVersion, "/") {
		root = "/apis/" + o.APIVersion
	}
	var list struct {
		Resources []struct {
			Name, Kind string
			Namespaced bool
		}
	}
	if err := json.Unmarshal(server.Do(t, "GET", root, nil), &list); err != nil {
		t.Fatal(err)
	}
	for _, r := range list.Resources {
		switch {
		case r.Kind != o.Kind || strings.Contains(r.Name, "/"):
		case r.Namespaced:
			if o.Metadata.Namespace == "" {
				t.Fatalf("%s is in no namespace", o)
			}
			return root + "/namespaces/" + o.Metadata.Namespace + "/" + r.Name + "/" + o.Metadata.Name
		default:
			return root + "/" + r.Name + "/" + o.Metadata.Name
		}
	}
	t.Fatalf("%s: the API server has no such type", o)
	return ""
}

// apply applies the object as kubectl apply --server-side does. Fields that the
// API server does not know are refused.
func apply(t *testing.T, o *object, query string) {
	t.Helper()
	_, err := server.Request(t.Context(), "PATCH", path(t, o)+"?fieldManager=test&fieldValidation=Strict"+query, "application/apply-patch+yaml", o.raw)
	if err != nil {
		t.Errorf("%s: %v", o, err)
	}
}

const (
	argoPart    = "components/argo"
	tektonPart  = "components/tekton"
	csiPart     = "components/csi"
	takePart    = "components/csi-take"
	monitorPart = "components/servicemonitor"
)

// TestServerTakesAll has the API server look at every object, and store none but
// the namespaces.
func TestServerTakesAll(t *testing.T) {
	kubetest.Need(t, server, missing)
	server.Define(t, "monitoring.coreos.com", "v1", "servicemonitors", "ServiceMonitor", false)
	for _, tt := range []struct {
		dir        string
		components []string
	}{
		{"base", nil},
		{"overlays/laptop", nil},
		{"overlays/laptop", []string{argoPart, csiPart, takePart, monitorPart}},
	} {
		all := render(t, tt.dir, tt.components...)
		for i := range all {
			if all[i].Kind == "Namespace" {
				apply(t, &all[i], "")
			}
		}
		for i := range all {
			apply(t, &all[i], "&dryRun=All")
		}
		t.Logf("%s with %v: %d objects", tt.dir, tt.components, len(all))
	}
	// That it does refuse what it does not know:
	odd := *one(t, render(t, "base"), "Service", "")
	odd.raw = bytes.Replace(odd.raw, []byte(`"targetPort"`), []byte(`"tragetPort"`), 1)
	if _, err := server.Request(t.Context(), "PATCH", path(t, &odd)+"?fieldManager=test&fieldValidation=Strict&dryRun=All", "application/apply-patch+yaml", odd.raw); err == nil {
		t.Error("a misspelt field was taken")
	}
}

// TestServiceMonitor decodes it as the Prometheus operator has it.
func TestServiceMonitor(t *testing.T) {
	var m monitoring.ServiceMonitor
	if err := yaml.UnmarshalStrict(one(t, render(t, "base", monitorPart), "ServiceMonitor", "").raw, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Spec.Endpoints) != 1 || m.Spec.Endpoints[0].Port != "metrics" {
		t.Errorf("it scrapes %+v", m.Spec.Endpoints)
	}
}

// pod is the pod that the StatefulSet makes: its template with the claim.
func pod(t *testing.T, all []object) map[string]any {
	t.Helper()
	var set struct {
		Spec struct {
			Template struct {
				Metadata map[string]any
				Spec     map[string]any
			}
		}
	}
	one(t, all, "StatefulSet", "").decode(t, &set)
	p := set.Spec.Template
	p.Metadata["name"] = "retrace-0"
	p.Spec["volumes"] = append(p.Spec["volumes"].([]any), map[string]any{
		"name": "data", "persistentVolumeClaim": map[string]any{"claimName": "data-retrace-0"},
	})
	return map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": p.Metadata, "spec": p.Spec}
}

// TestPodIsRestricted makes the pod in the namespace as it is labelled. A pod that
// leaves out any one thing is refused there.
func TestPodIsRestricted(t *testing.T) {
	kubetest.Need(t, server, missing)
	all := render(t, "overlays/laptop")
	apply(t, one(t, all, "Namespace", ""), "")
	const pods = "/api/v1/namespaces/retrace/pods"
	server.Do(t, "POST", pods+"?fieldValidation=Strict", pod(t, all))
	server.Do(t, "DELETE", pods+"/retrace-0?gracePeriodSeconds=0", nil)

	context := func(p map[string]any, group string) map[string]any {
		spec := p["spec"].(map[string]any)
		if group == "" {
			return spec["securityContext"].(map[string]any)
		}
		return spec[group].([]any)[0].(map[string]any)["securityContext"].(map[string]any)
	}
	for _, group := range []string{"containers", "initContainers"} {
		if context(pod(t, all), group)["readOnlyRootFilesystem"] != true {
			t.Errorf("the root of %s can be written to", group)
		}
	}
	if context(pod(t, all), "")["fsGroupChangePolicy"] != "OnRootMismatch" {
		t.Error("a kubelet makes private keys readable by the group")
	}
	for _, without := range []struct{ group, field string }{
		{"", "runAsNonRoot"}, {"", "seccompProfile"},
		{"containers", "allowPrivilegeEscalation"}, {"containers", "capabilities"},
		{"initContainers", "allowPrivilegeEscalation"}, {"initContainers", "capabilities"},
	} {
		p := pod(t, all)
		delete(context(p, without.group), without.field)
		_, err := server.Request(t.Context(), "POST", pods+"?dryRun=All", "application/json", mustJSON(t, p))
		if err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
			t.Errorf("without %s of %q: %v, want it refused", without.field, without.group, err)
		}
	}
}

// TestPorts holds names of ports, which no API server follows, to those that the
// container has.
func TestPorts(t *testing.T) {
	all := render(t, "base", monitorPart)
	p := pod(t, all)
	container := p["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
	config := string(one(t, all, "ConfigMap", "").raw)
	has := map[string]bool{}
	for _, port := range container["ports"].([]any) {
		port := port.(map[string]any)
		has[port["name"].(string)] = true
		if want := fmt.Sprintf("0.0.0.0:%v", port["containerPort"]); !strings.Contains(config, want) {
			t.Errorf("retrace.yaml does not listen on %s", want)
		}
	}
	used := []string{}
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		used = append(used, container[probe].(map[string]any)["httpGet"].(map[string]any)["port"].(string))
	}
	var service struct {
		Spec struct {
			Ports []struct{ TargetPort string }
		}
	}
	one(t, all, "Service", "").decode(t, &service)
	for _, port := range service.Spec.Ports {
		used = append(used, port.TargetPort)
	}
	var policy struct {
		Spec struct {
			Ingress []struct{ Ports []struct{ Port string } }
		}
	}
	one(t, all, "NetworkPolicy", "").decode(t, &policy)
	for _, rule := range policy.Spec.Ingress {
		for _, port := range rule.Ports {
			used = append(used, port.Port)
		}
	}
	if len(used) != 7 {
		t.Errorf("found %v", used)
	}
	for _, name := range used {
		if !has[name] {
			t.Errorf("the container has no port %q", name)
		}
	}
}

// TestConfigs holds the configuration of the laptop to the one that it takes the
// place of.
func TestConfigs(t *testing.T) {
	settings := func(dir string) string {
		var config struct{ Data map[string]string }
		one(t, render(t, dir, argoPart), "ConfigMap", "").decode(t, &config)
		var all map[string]any
		if err := yaml.Unmarshal([]byte(config.Data["retrace.yaml"]), &all); err != nil {
			t.Fatal(err)
		}
		return string(mustJSON(t, all))
	}
	got, want := settings("overlays/laptop"), strings.Replace(settings("base"), "kubernetes://cluster", "kubernetes://laptop", 1)
	if got != want {
		t.Errorf("retrace.yaml of the laptop says\n%s\nwant\n%s", got, want)
	}
}
