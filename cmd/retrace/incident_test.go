package main

import (
	"archive/zip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/retrace-ledger/retrace/ingest/kube/kubetest"
	"github.com/retrace-ledger/retrace/verify/cosign"
)

// shop is a cluster with a deployment that Argo CD keeps in step with a GitOps
// repository, a registry with images that are signed and built of recorded commits,
// and a ledger that watches all of it. Its controllers are played by the test.
type shop struct {
	t             *testing.T
	kube          *kubetest.Server
	ns, dir       string
	repo          *gitOps
	registry, api string // HOST, HOST/REPOSITORY
	key, password []byte
	source        string // commit that images say they were built of
}

func newShop(t *testing.T) *shop {
	t.Helper()
	server, err := kubetest.Start()
	s := &shop{t: t, kube: kubetest.Need(t, server, err), repo: newGitOps(t), dir: t.TempDir(), password: []byte("correct horse")}
	t.Cleanup(s.kube.Stop)
	s.registry = freeAddress(t)
	serveRegistry(t, s.registry, "")
	s.api = s.registry + "/ml/api"
	var public []byte
	if s.key, public, err = cosign.GenerateKey(s.password); err != nil {
		t.Fatal(err)
	}
	s.write("cosign.pub", string(public))
	s.kube.Define(t, "argoproj.io", "v1alpha1", "applications", "Application", false)
	s.ns = s.kube.Namespace(t, "ml")
	s.source = s.repo.commit("source", map[string]string{"src/main.go": "package main\n"})
	return s
}

func (s *shop) write(name, text string) string {
	s.t.Helper()
	at := filepath.Join(s.dir, name)
	if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return at
}

// image pushes an image that says which commit it was built of, and returns it by
// digest.
func (s *shop) image(tag string) string {
	s.t.Helper()
	image, err := random.Image(100, 1)
	if err != nil {
		s.t.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{Labels: map[string]string{
		"org.opencontainers.image.revision": s.source, "org.opencontainers.image.source": strings.TrimPrefix(s.repo.url, "git+"),
	}}})
	if err != nil {
		s.t.Fatal(err)
	}
	at, err := name.NewTag(s.api+":"+tag, name.Insecure)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.Write(at, image); err != nil {
		s.t.Fatal(err)
	}
	return s.api + "@" + digestOf(s.t, image)
}

func (s *shop) sign(image string, key []byte) {
	s.t.Helper()
	if err := cosign.Sign(context.Background(), image, key, s.password); err != nil {
		s.t.Fatal(err)
	}
}

// object is the deployment, as manifests have it.
func (s *shop) object(image string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: api, labels: {app: api}}
spec:
  replicas: %d
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: api, image: %q}]}
`, replicas, image)
}

// deploy has the cluster run image as Argo CD would from a commit: the deployment,
// its replica set, a pod, and the history of the application.
func (s *shop) deploy(image string, replicas int, commit string) {
	s.t.Helper()
	s.deployAs(image, image, replicas, commit)
}

// deployAs has the cluster run an image that is asked for by another name.
func (s *shop) deployAs(asked, image string, replicas int, commit string) {
	s.t.Helper()
	apps, core := "/apis/apps/v1/namespaces/"+s.ns, "/api/v1/namespaces/"+s.ns
	digest := image[strings.IndexByte(image, '@')+1:]
	short := digest[len("sha256:"):][:8]
	if !strings.Contains(image, "@") {
		s.t.Fatalf("%s has no digest", image)
	}
	labels := map[string]any{"app": "api"}
	spec := map[string]any{
		"replicas": replicas, "selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{map[string]any{"name": "api", "image": asked}}}},
	}
	uid := s.put(apps+"/deployments", "api", map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "api", "labels": labels}, "spec": spec})
	set := s.put(apps+"/replicasets", "api-"+short, map[string]any{"apiVersion": "apps/v1", "kind": "ReplicaSet", "spec": spec,
		"metadata": map[string]any{"name": "api-" + short, "labels": labels, "ownerReferences": owner("apps/v1", "Deployment", "api", uid)}})
	var pods struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := json.Unmarshal(s.kube.Do(s.t, "GET", core+"/pods", nil), &pods); err != nil {
		s.t.Fatal(err)
	}
	for _, p := range pods.Items {
		s.kube.Do(s.t, "DELETE", core+"/pods/"+p.Metadata.Name+"?gracePeriodSeconds=0", nil)
	}
	s.kube.Do(s.t, "POST", core+"/pods", map[string]any{"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": "api-" + short, "labels": labels, "ownerReferences": owner("apps/v1", "ReplicaSet", "api-"+short, set)},
		"spec":     map[string]any{"initContainers": []any{map[string]any{"name": "migrate", "image": asked}}, "containers": []any{map[string]any{"name": "api", "image": asked}}}})
	s.kube.Do(s.t, "PATCH", core+"/pods/api-"+short+"/status", map[string]any{"status": map[string]any{
		"phase":                 "Running",
		"containerStatuses":     []any{map[string]any{"name": "api", "image": asked, "imageID": "docker-pullable://" + image, "restartCount": 0, "ready": true}},
		"initContainerStatuses": []any{map[string]any{"name": "migrate", "image": asked, "imageID": "docker-pullable://" + image, "restartCount": 0, "ready": true}},
	}})
	s.put("/apis/argoproj.io/v1alpha1/namespaces/"+s.ns+"/applications", "shop", map[string]any{"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": map[string]any{"name": "shop"},
		"status": map[string]any{
			"history":   []any{map[string]any{"revision": commit, "source": map[string]any{"repoURL": strings.TrimPrefix(s.repo.url, "git+")}}},
			"resources": []any{map[string]any{"group": "apps", "version": "v1", "kind": "Deployment", "namespace": s.ns, "name": "api"}},
		}})
}

func owner(version, kind, name, uid string) []any {
	return []any{map[string]any{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true}}
}

// put makes an object, or puts it in the place of the one of its name, and returns
// its UID.
func (s *shop) put(path, name string, object map[string]any) string {
	s.t.Helper()
	body, err := json.Marshal(object)
	if err != nil {
		s.t.Fatal(err)
	}
	var got struct{ Metadata struct{ UID string } }
	raw, err := s.kube.Request(s.t.Context(), "POST", path, "application/json", body)
	if err != nil {
		raw = s.kube.Do(s.t, "PATCH", path+"/"+name, object)
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		s.t.Fatal(err)
	}
	return got.Metadata.UID
}

// watch has the ledger see everything that there is.
func (s *shop) watch() {
	s.t.Helper()
	_, stop := serveSources(s.t, s.dir, fmt.Sprintf("  - url: %s\n  - url: oci://%s\n  - url: kubernetes://prod/%s\n    with: {kubeconfig: %s}\n", s.repo.url, s.api, s.ns, s.kube.Kubeconfig))
	defer stop()
	await(s.t, "all sources to be read", func() bool {
		out, _, status := retrace(s.t, s.dir, "sources", "-o", "json")
		return status == 0 && strings.Count(out, `"WAITING"`) == 3
	})
}

// audit returns what the audit of the namespace says.
func (s *shop) audit(args ...string) (string, int) {
	s.t.Helper()
	args = append([]string{"audit", "--kubeconfig", s.kube.Kubeconfig, "--namespace", s.ns, "--cluster", "prod", "--key", "cosign.pub", "--repo", s.repo.url}, args...)
	out, errs, status := retrace(s.t, s.dir, args...)
	return out + errs, status
}

// TestIncident is a night on call: a good deployment passes its audit; whatever is
// then wrong with it is found, for the right reason, and never passes; the bad state
// is reverted by a commit, and the audit passes again.
func TestIncident(t *testing.T) {
	if testing.Short() {
		t.Skip("runs an API server of Kubernetes")
	}
	t.Parallel()
	s := newShop(t)
	done(t, s.dir, "init")
	good := s.image("v1")
	s.sign(good, s.key)
	commit := s.repo.commit("good", map[string]string{"apps/api.yaml": s.object(good, 2)})
	s.deploy(good, 2, commit)
	s.watch()

	out, status := s.audit("--html", "audit.html", "--bundle", "audit.zip")
	if status != 0 {
		t.Fatalf("the good deployment: %d\n%s", status, out)
	}
	t.Log(out)
	for _, want := range []string{"pass     state ", "pass     manifest  it is as apps/api.yaml in commit " + commit[:12] + " has it", "pass     commit    commit " + commit[:12] + " is on main", "pass     recorded", "pass     signed", "recorded as entry "} {
		if !strings.Contains(out, want) {
			t.Errorf("the good deployment: no %q in\n%s", want, out)
		}
	}
	page, err := os.ReadFile(filepath.Join(s.dir, "audit.html"))
	if err != nil || strings.Count(string(page), "<svg") != 1 || strings.Contains(string(page), "<script") {
		t.Errorf("the page: %v, %.200s", err, page)
	}
	s.outside("audit.zip")
	workload := "prod/" + s.ns + "/Deployment/api"
	if out, errs, status := retrace(t, s.dir, "audit", "--workload", workload, "--key", "cosign.pub"); status != 0 {
		t.Errorf("from the ledger's own history: %d %s%s", status, out, errs)
	}
	if out, errs, status := retrace(t, s.dir, "audit", "-f", s.write("api.yaml", s.object(good, 2)), "--key", "cosign.pub"); status != 0 {
		t.Errorf("the manifest by itself: %d %s%s", status, out, errs)
	}

	wrong, _, err := cosign.GenerateKey(s.password)
	if err != nil {
		t.Fatal(err)
	}
	apps := "/apis/apps/v1/namespaces/" + s.ns + "/deployments/api"
	for name, c := range map[string]struct {
		make   func() (image string, replicas int, commit string)
		after  func()
		seen   bool // by the ledger's watchers
		status int
		want   string
	}{
		"an unsigned image": {make: func() (string, int, string) {
			image := s.image("unsigned")
			return image, 2, s.repo.commit("unsigned", map[string]string{"apps/api.yaml": s.object(image, 2)})
		}, seen: true, status: 1, want: "fail     signed"},
		"signed by the wrong key": {make: func() (string, int, string) {
			image := s.image("wrong")
			s.sign(image, wrong)
			return image, 2, s.repo.commit("wrong", map[string]string{"apps/api.yaml": s.object(image, 2)})
		}, seen: true, status: 1, want: "fail     signed"},
		"a replayed signature": {make: func() (string, int, string) {
			image := s.image("replayed")
			s.replay(good, image)
			return image, 2, s.repo.commit("replayed", map[string]string{"apps/api.yaml": s.object(image, 2)})
		}, seen: true, status: 1, want: "fail     signed"},
		"an image that nobody saw": {make: func() (string, int, string) {
			image := s.registry + "/elsewhere/api@sha256:" + strings.Repeat("7", 64)
			return image, 2, s.repo.commit("unknown", map[string]string{"apps/api.yaml": s.object(image, 2)})
		}, seen: true, status: 1, want: "fail     recorded"},
		"an edited object": {make: func() (string, int, string) { return good, 2, commit }, after: func() {
			s.kube.Do(t, "PATCH", apps, map[string]any{"spec": map[string]any{"replicas": 5, "template": map[string]any{"spec": map[string]any{"hostNetwork": true}}}})
		}, seen: true, status: 1, want: "it is not as apps/api.yaml in commit " + commit[:12] + " has it: spec.replicas: 2 in the manifest, 5 in the cluster; spec.template.spec.hostNetwork: not in the manifest, true in the cluster"},
		"a commit off the branch": {make: func() (string, int, string) {
			s.repo.git(s.repo.tree, "checkout", "-q", "-b", "elsewhere")
			s.repo.git(s.repo.tree, "commit", "-q", "--allow-empty", "-m", "off")
			s.repo.git(s.repo.tree, "push", "-q", "origin", "elsewhere")
			off := s.repo.git(s.repo.tree, "rev-parse", "HEAD")
			s.repo.git(s.repo.tree, "checkout", "-q", "main")
			return good, 2, off
		}, seen: true, status: 1, want: "fail     commit    commit "},
		"a change that nobody saw yet": {make: func() (string, int, string) {
			image := s.image("fresh")
			s.sign(image, s.key)
			return image, 2, s.repo.commit("fresh", map[string]string{"apps/api.yaml": s.object(image, 2)})
		}, status: 1, want: "unknown  state     it runs something else than entry "},
	} {
		image, replicas, from := c.make()
		s.deploy(image, replicas, from)
		if c.after != nil {
			c.after()
		}
		if c.seen {
			s.watch()
		}
		out, status := s.audit()
		if status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("%s: %d, want %d with %q:\n%s", name, status, c.status, c.want, out)
		}
		s.kube.Do(t, "PATCH", apps, map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"hostNetwork": nil}}}})
	}

	// A tag that was moved away from what runs decides nothing where a digest was
	// asked for; where the tag was, the next pod runs something else.
	byTag := s.repo.commit("by tag", map[string]string{"apps/api.yaml": s.object(s.api+":v1", 2)})
	s.deployAs(s.api+":v1", good, 2, byTag)
	s.watch()
	if out, status := s.audit(); status != 0 || !strings.Contains(out, "note     tag       asked for by tag, which points at what runs") {
		t.Errorf("by tag: %d\n%s", status, out)
	}
	s.image("v1")
	s.watch()
	if out, status := s.audit(); status != 2 || !strings.Contains(out, "unknown  tag       asked for by a tag that points at ") {
		t.Errorf("by a tag that was moved: %d\n%s", status, out)
	}
	s.deploy(good, 2, commit)
	s.watch()
	if out, status := s.audit(); status != 0 || strings.Count(out, "pass     signed") != 2 {
		t.Errorf("by digest, and a tag that was moved: %d\n%s", status, out)
	}

	// The bad state is deployed from Git, found, traced and reverted.
	bad := s.image("v2")
	badCommit := s.repo.commit("bad", map[string]string{"apps/api.yaml": s.object(bad, 3)})
	s.deploy(bad, 3, badCommit)
	s.watch()
	if out, status := s.audit(); status != 1 || !strings.Contains(out, "fail     signed") {
		t.Errorf("the bad state: %d\n%s", status, out)
	} else {
		t.Log(out)
	}
	if out, errs, status := retrace(t, s.dir, "impact", "image:"+bad); status != 1 || !strings.Contains(out, "workload:"+workload) {
		t.Errorf("what the bad image touches: %d %s%s", status, out, errs)
	} else {
		t.Log(out + errs)
	}
	t.Log(done(t, s.dir, "lineage", "workload:"+workload))
	if out := done(t, s.dir, "history", "workload:"+workload); !strings.Contains(out, commit[:12]) || !strings.Contains(out, badCommit[:12]) {
		t.Errorf("what the workload was: %s", out)
	} else {
		t.Log(out)
	}
	out = done(t, s.dir, "revert", "--repo", s.repo.url, "--to", "git:"+commit, "--paths", "apps", "--plan")
	if !strings.Contains(out, "-  replicas: 3") || !strings.Contains(out, "+  replicas: 2") {
		t.Errorf("the plan: %s", out)
	}
	t.Log(out)
	var pushed struct{ Commit string }
	if err := json.Unmarshal([]byte(done(t, s.dir, "revert", "--repo", s.repo.url, "--to", "git:"+commit, "--paths", "apps", "--as", "main", "--push", "-o", "json")), &pushed); err != nil {
		t.Fatal(err)
	}
	s.deploy(good, 2, pushed.Commit) // the cluster follows
	s.watch()
	out, status = s.audit()
	if status != 0 || !strings.Contains(out, "that commit put an earlier state back, as entry ") {
		t.Errorf("after the revert: %d\n%s", status, out)
	}
	t.Log(out)

	// A word for it is shown; once its key is revoked, its signature counts no more.
	done(t, s.dir, "keys", "create", "ada.key")
	done(t, s.dir, "keys", "trust", "ada.key.pub", "--name", "ada")
	done(t, s.dir, "attest", "image:"+good, "--claim", "approved for production", "--key", "ada.key")
	if out, status := s.audit(); status != 0 || !strings.Contains(out, "vouched for: approved for production (entry ") {
		t.Errorf("with an approval: %d\n%s", status, out)
	}
	done(t, s.dir, "keys", "trust", "cosign.pub", "--name", "ci")
	done(t, s.dir, "keys", "revoke", "cosign.pub", "--reason", "laptop stolen")
	if out, status := s.audit(); status != 1 || !strings.Contains(out, "revoked the key: laptop stolen") {
		t.Errorf("with a revoked key: %d\n%s", status, out)
	}

	// A ledger that somebody made anew, with a history that suits them better, is not
	// the one that the log's key signed.
	other := filepath.Join(t.TempDir(), "other")
	done(t, s.dir, "--dir", other, "init", "--origin", s.origin())
	if out, errs, status := retrace(t, s.dir, "audit", "--ledger", other, "--key", filepath.Join(dirName, "log.vkey")); status != 1 {
		t.Errorf("a rewritten ledger: %d %s%s", status, out, errs)
	}

	// What the old state needs is gone: refused.
	ref, err := name.ParseReference(good, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Delete(ref); err != nil {
		t.Fatal(err)
	}
	s.repo.commit("bad again", map[string]string{"apps/api.yaml": s.object(bad, 3)})
	if out, errs, status := retrace(t, s.dir, "revert", "--repo", s.repo.url, "--to", "git:"+commit, "--paths", "apps", "--push"); status != 1 || !strings.Contains(out, "MISSING: its registry does not have it") {
		t.Errorf("with the image gone: %d %s%s", status, out, errs)
	}
}

// origin is the name of the log.
func (s *shop) origin() string {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.dir, dirName, "log.vkey"))
	if err != nil {
		s.t.Fatal(err)
	}
	name, _, _ := strings.Cut(string(raw), "+")
	return name
}

// outside checks what an audit gave along, as somebody who has the log's key alone,
// and that proofs which were tampered with do not hold.
func (s *shop) outside(name string) {
	s.t.Helper()
	z, err := zip.OpenReader(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	defer z.Close()
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
		if !strings.HasSuffix(f.Name, ".bundle") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			s.t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			s.t.Fatal(err)
		}
		key := filepath.Join(dirName, "log.vkey")
		if out, errs, status := retrace(s.t, s.dir, "verify", s.write("outside.bundle", string(raw)), "--key", key); status != 0 {
			s.t.Errorf("%s: %d %s%s", f.Name, status, out, errs)
		}
		tampered := strings.Replace(string(raw), `"size":`, `"size":1`, 1)
		if out, errs, status := retrace(s.t, s.dir, "verify", s.write("outside.bundle", tampered), "--key", key); status == 0 {
			s.t.Errorf("%s, tampered with: %s%s", f.Name, out, errs)
		}
	}
	slices.Sort(names)
	if want := []string{"1-lineage.bundle", "1-verdict.bundle", "README.txt", "audit.html", "audit.json"}; !slices.Equal(names, want) {
		s.t.Errorf("the audit takes along %q, want %q", names, want)
	}
}

// replay puts the signatures of one image beside another.
func (s *shop) replay(from, to string) {
	s.t.Helper()
	tag := func(image string) name.Tag {
		t, err := name.NewTag(strings.Replace(image, "@sha256:", ":sha256-", 1)+".sig", name.Insecure)
		if err != nil {
			s.t.Fatal(err)
		}
		return t
	}
	image, err := remote.Image(tag(from))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.Write(tag(to), image); err != nil {
		s.t.Fatal(err)
	}
}
