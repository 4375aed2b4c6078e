package main

import (
	"bytes"
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
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// gitOps is a repository of manifests behind Git over HTTP, which takes pushes, and
// a work tree of it.
type gitOps struct {
	t    *testing.T
	url  string // as sources are given
	bare string
	tree string
}

func newGitOps(t *testing.T) *gitOps {
	t.Helper()
	root := t.TempDir()
	g := &gitOps{t: t, bare: filepath.Join(root, "deploy"), tree: filepath.Join(t.TempDir(), "tree")}
	g.git(root, "init", "-q", "--bare", "-b", "main", g.bare)
	g.git(g.bare, "config", "http.receivepack", "true")
	g.git(g.bare, "config", "receive.denyNonFastForwards", "true")
	g.git(root, "clone", "-q", g.bare, g.tree)
	web := httptest.NewServer(&cgi.Handler{Path: need(t, "git"), Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"}})
	t.Cleanup(web.Close)
	g.url = "git+" + web.URL + "/deploy"
	return g
}

func (g *gitOps) git(dir string, args ...string) string {
	g.t.Helper()
	cmd := exec.Command(need(g.t, "git"), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME=/nonexistent",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit puts files into the repository and pushes them; an empty text removes one.
func (g *gitOps) commit(message string, files map[string]string) string {
	g.t.Helper()
	if g.git(g.bare, "for-each-ref") != "" {
		g.git(g.tree, "pull", "-q", "--ff-only", "origin", "main")
	}
	for name, text := range files {
		at := filepath.Join(g.tree, name)
		if text == "" {
			if err := os.Remove(at); err != nil {
				g.t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			g.t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			g.t.Fatal(err)
		}
	}
	g.git(g.tree, "add", "-A")
	g.git(g.tree, "commit", "-q", "-m", message)
	g.git(g.tree, "push", "-q", "origin", "HEAD:main")
	return g.git(g.tree, "rev-parse", "HEAD")
}

func pushImage(t *testing.T, reference string) v1.Image {
	t.Helper()
	image, err := random.Image(100, 1)
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
	return image
}

func digestOf(t *testing.T, image v1.Image) string {
	t.Helper()
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func manifest(image string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: api}\nspec: {template: {spec: {containers: [{name: api, image: \"" + image + "\"}]}}}\n"
}

// TestRevert puts a recorded state of a GitOps repository back by a commit, with Git
// over HTTP and a registry, and refuses where an image is gone or a tag was moved.
func TestRevert(t *testing.T) {
	t.Parallel()
	repo := newGitOps(t)
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer images.Close()
	api := strings.TrimPrefix(images.URL, "http://") + "/ml/api"
	dir := t.TempDir()
	done(t, dir, "init")
	watch := func() { done(t, dir, "watch", "--once", repo.url, "oci://"+api) }

	pinned := api + "@" + digestOf(t, pushImage(t, api+":v1"))
	tagged := pushImage(t, api+":stable")
	good := repo.commit("good", map[string]string{
		"apps/api.yaml": manifest(pinned), "apps/web.yaml": manifest(api + ":stable"), "README": "one\n",
		"base/worker.yaml": manifest("worker"), "base/kustomization.yaml": "images: [{name: worker, newName: " + api + ", newTag: v1}]\n",
	})
	watch()
	bad := repo.commit("bad", map[string]string{"apps/api.yaml": manifest(api + "@sha256:" + strings.Repeat("0", 64)), "README": "two\n", "apps/more/new.yaml": manifest(pinned)})
	watch()

	// The plan is the diff, and changes nothing.
	var plan struct {
		Head, To, Diff, Commit string
		Said                   int64
		Files                  []struct{ Path, From, To string }
		Needs                  []struct{ Kind, Name, Path, Found, Problem string }
		Blocked                int
	}
	out := done(t, dir, "revert", "--repo", repo.url, "--to", "git:"+good[:12], "--plan", "-o", "json")
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		t.Fatal(err)
	}
	var files, needs []string
	for _, f := range plan.Files {
		files = append(files, f.Path)
	}
	for _, n := range plan.Needs {
		needs = append(needs, n.Name)
	}
	if !slices.Equal(files, []string{"README", "apps/api.yaml", "apps/more/new.yaml"}) || plan.Head != bad || plan.To != good || plan.Blocked != 0 {
		t.Errorf("the plan is %s", out)
	}
	if want := []string{pinned, api + ":stable", api + ":v1"}; !slices.Equal(needs, want) {
		t.Errorf("the state needs %q, want %q", needs, want)
	}
	if !strings.Contains(plan.Diff, "-two") || !strings.Contains(plan.Diff, "+one") {
		t.Errorf("the diff is %s", plan.Diff)
	}
	if head := repo.git(repo.bare, "for-each-ref", "--format=%(refname) %(objectname)"); head != "refs/heads/main "+bad {
		t.Errorf("after a plan the repository has %s", head)
	}

	// A server shows the same plan, to who may read what files hold.
	address, stop := serveSources(t, dir, "  - url: "+repo.url+"\n")
	ask := func(repository, token string) (string, int) {
		t.Helper()
		query := fmt.Sprintf(`{ revertPlan(repository: %q, to: "git:%s") { head to files { path from to } diff needs { kind name path found problem } entry { index } } }`, repository, good)
		body, err := json.Marshal(map[string]string{"query": query})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/graphql", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw), resp.StatusCode
	}
	var at struct{ Token string }
	if raw, err := os.ReadFile(filepath.Join(dir, dirName, "server.json")); err != nil || json.Unmarshal(raw, &at) != nil {
		t.Fatal(err)
	}
	var shown struct {
		Data struct {
			RevertPlan struct {
				Head, To, Diff string
				Needs          []struct{ Name, Problem string }
			}
		}
	}
	if raw, status := ask(repo.url, at.Token); status != 200 || json.Unmarshal([]byte(raw), &shown) != nil || shown.Data.RevertPlan.Diff != plan.Diff || shown.Data.RevertPlan.Head != "gitCommit:"+bad || len(shown.Data.RevertPlan.Needs) != 3 {
		t.Errorf("the plan by GraphQL: %d %s", status, raw)
	}
	if raw, status := ask(repo.url, ""); status != 401 || strings.Contains(raw, "+one") {
		t.Errorf("the plan without a token: %d %s", status, raw)
	}
	if raw, _ := ask("git+file:///etc", at.Token); !strings.Contains(raw, `"FORBIDDEN"`) {
		t.Errorf("the plan of a repository that nobody watches: %s", raw)
	}
	stop()

	// One path, on a new branch.
	out = done(t, dir, "revert", "--repo", repo.url, "--to", "git:"+good, "--paths", "apps/api.yaml", "--push")
	if !strings.Contains(out, "to revert-"+good[:12]+", recorded as entry ") {
		t.Errorf("a push says %s", out)
	}
	branch := "revert-" + good[:12]
	if got := repo.git(repo.bare, "diff", "--name-only", "main", branch); got != "apps/api.yaml" {
		t.Errorf("the branch differs from main in %q", got)
	}
	if got := repo.git(repo.bare, "diff", "--name-only", good, branch, "--", "apps/api.yaml"); got != "" {
		t.Errorf("the branch has another %s than the good state", got)
	}
	message := repo.git(repo.bare, "log", "-1", "--format=%B", branch)
	if !strings.Contains(message, "Retrace-State: "+good) || !strings.Contains(message, "Retrace-Checkpoint: ") {
		t.Errorf("the message is %s", message)
	}
	if _, errs, status := retrace(t, dir, "revert", "--repo", repo.url, "--to", "git:"+good, "--push"); status != 2 || !strings.Contains(errs, "has a branch "+branch+" already") {
		t.Errorf("the same branch again: %d %s", status, errs)
	}
	// The whole tree, on the branch itself; it is recorded, and the trees are equal.
	out = done(t, dir, "revert", "--repo", repo.url, "--to", "git:"+good, "--as", "main", "--push", "-o", "json")
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		t.Fatal(err)
	}
	if repo.git(repo.bare, "rev-parse", "main^{tree}") != repo.git(repo.bare, "rev-parse", good+"^{tree}") || repo.git(repo.bare, "rev-parse", "main^") != bad {
		t.Error("main does not have the good state on top of the bad one")
	}
	watch()
	if out := done(t, dir, "show", "git:"+plan.Commit); !strings.Contains(out, "named") {
		t.Errorf("the new commit: %s", out)
	}
	if out := done(t, dir, "log", "--type", "restore"); !strings.Contains(out, "restore git:"+good) {
		t.Errorf("the log says %s", out)
	}
	if out := done(t, dir, "revert", "--repo", repo.url, "--to", "git:"+good, "--as", "main", "--push"); !strings.Contains(out, "nothing differs") {
		t.Errorf("what is there already: %s", out)
	}

	// What the branch was at a time, as entries say.
	repo.commit("bad again", map[string]string{"README": "three\n"})
	if _, errs, status := retrace(t, dir, "revert", "--repo", repo.url, "--at", "2001-01-01", "--plan"); status != 2 || !strings.Contains(errs, "unknown at") {
		t.Errorf("before the branch was seen: %d %s", status, errs)
	}
	out = done(t, dir, "revert", "--repo", repo.url, "--at", "0s ago", "--plan")
	if !strings.Contains(out, "-three") || !strings.Contains(out, "says entry") {
		t.Errorf("what the branch was when it was last seen: %s", out)
	}

	// A tag was moved, an image deleted: refused, with the list; by force it says so.
	pushImage(t, api+":stable")
	watch()
	out, errs, status := retrace(t, dir, "revert", "--repo", repo.url, "--to", "git:"+good, "--as", "y", "--push")
	if status != 1 || !strings.Contains(out, "MISSING: the tag pointed at "+digestOf(t, tagged)[:19]) || !strings.Contains(errs, "1 thing of what that state needs is not there as it was") {
		t.Errorf("with a moved tag: %d %s %s", status, out, errs)
	}
	ref, err := name.ParseReference(pinned, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Delete(ref); err != nil {
		t.Fatal(err)
	}
	out, errs, status = retrace(t, dir, "revert", "--repo", repo.url, "--to", "git:"+good, "--as", "y", "--push")
	if status != 1 || !strings.Contains(out, "MISSING: its registry does not have it") || !strings.Contains(errs, "--force") {
		t.Errorf("with a deleted image: %d %s %s", status, out, errs)
	}
	if refs := repo.git(repo.bare, "for-each-ref", "refs/heads/y"); refs != "" {
		t.Errorf("a refused revert pushed %s", refs)
	}
	if out := done(t, dir, "gaps", "image:"+pinned); strings.Contains(out, "content-missing") {
		t.Errorf("gaps ask nobody unless told: %s", out)
	}
	if out := done(t, dir, "gaps", "image:"+pinned, "--live"); !strings.Contains(out, "content-missing") {
		t.Errorf("gaps, asked live, of a deleted image: %s", out)
	}
	done(t, dir, "revert", "--repo", repo.url, "--to", "git:"+good, "--as", "y", "--push", "--force")
	if message := repo.git(repo.bare, "log", "-1", "--format=%B", "y"); !strings.Contains(message, "Retrace-Forced: image "+pinned+": its registry does not have it") {
		t.Errorf("a forced revert says %s", message)
	}
}
