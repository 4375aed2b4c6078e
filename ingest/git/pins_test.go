package git

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

const (
	sum1 = "548379d0a4a0c08b9e55d9d87a592b7d35d9ab3037f4936f5ccd09d0b625a342"
	sum2 = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
)

// pinning are files that pin, or look as if they did, with what they pin.
var pinning = map[string]struct {
	text string
	want []string // RELATION NAME KEY
}{
	"data/train.csv.dvc": {
		"outs:\n- md5: 22a1a2931c8370d3aeedd7183606fd7f\n  size: 14445097\n  hash: md5\n  path: train.csv\n",
		[]string{"pins train.csv md5:22a1a2931c8370d3aeedd7183606fd7f"},
	},
	"old.dvc": { // before DVC 3: no "hash"
		"outs:\n- md5: 22a1a2931c8370d3aeedd7183606fd7f\n  path: old.csv\n",
		[]string{"pins old.csv dvcMD5:22a1a2931c8370d3aeedd7183606fd7f"},
	},
	"imported.dvc": {
		"deps:\n- path: raw.csv\n  repo:\n    url: git@github.com:acme/data.git\n    rev_lock: a94a8fe5ccb19ba61c4c0873d391e987982fbbd3\nouts:\n- md5: 22a1a2931c8370d3aeedd7183606fd7f\n  hash: md5\n  path: raw.csv\n",
		[]string{"pins raw.csv gitCommit:a94a8fe5ccb19ba61c4c0873d391e987982fbbd3", "pins raw.csv md5:22a1a2931c8370d3aeedd7183606fd7f"},
	},
	"dvc.lock": {
		"schema: '2.0'\nstages:\n  train:\n    cmd: python train.py\n    deps:\n    - path: train.csv\n      hash: md5\n      md5: 22a1a2931c8370d3aeedd7183606fd7f\n      size: 14445097\n    params:\n      params.yaml:\n        train.lr: 0.1\n    outs:\n    - path: model\n      hash: md5\n      md5: 6137cde4893c59f76f005a8123d8e8e6.dir\n      size: 99\n      nfiles: 2\n",
		[]string{"pins train.csv md5:22a1a2931c8370d3aeedd7183606fd7f", "pins model dvcDirMD5:6137cde4893c59f76f005a8123d8e8e6"},
	},
	"deploy/kustomization.yaml": {
		"resources: [deployment.yaml]\nimages:\n- name: server\n  newName: registry.example/ml/server\n  digest: sha256:" + sum1 + "\n- name: sidecar\n  newTag: v1\n",
		[]string{"refers registry.example/ml/server sha256:" + sum1},
	},
	"deploy/deployment.yaml": {
		"apiVersion: v1\nkind: Service\nmetadata: {name: x}\n---\napiVersion: apps/v1\nkind: Deployment\nspec:\n  template:\n    spec:\n      initContainers:\n      - image: registry.example/init@sha256:" + sum2 + "\n      containers:\n      - image: registry.example/ml/server:v7@sha256:" + sum1 + "\n      - image: registry.example/ml/sidecar:v1\n",
		[]string{"refers registry.example/ml/server sha256:" + sum1, "refers registry.example/init sha256:" + sum2},
	},
	"pipeline.json": {
		`{"deploymentSpec":{"executors":{"exec-train":{"container":{"image":"registry.example/train@sha256:` + sum2 + `"}}}},"schemaVersion":"2.1.0"}`,
		[]string{"refers registry.example/train sha256:" + sum2},
	},
	"weights.bin": {
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + sum1 + "\nsize 12345\n",
		[]string{"pins weights.bin sha256:" + sum1},
	},
	// None of these pins anything.
	"chart/templates/deploy.yaml": {"apiVersion: v1\nkind: Pod\nspec: {containers: [{image: {{ .Values.image }}@sha256:" + sum1 + "}]}\n", nil},
	"tags.yaml":                   {"apiVersion: v1\nkind: Pod\nspec: {containers: [{image: busybox:latest}]} # not @sha256\n", nil},
	"notes.yaml":                  {"image: registry.example/train@sha256:" + sum2 + "\n", nil},
	"short.dvc":                   {"outs:\n- md5: 22a1\n  hash: md5\n  path: short.csv\n", nil},
	"pointer.txt":                 {"version https://git-lfs.github.com/spec/v1\noid sha256:../../x\nsize 12345\n", nil},
	"README.md":                   {"see registry.example/train@sha256:" + sum2 + "\n", nil},
}

// pinnedBy reads from the facts of everything recorded what each commit pins: at
// the path, or in the file there.
func pinnedBy(t *testing.T, w *watched) map[string]map[string][]string {
	t.Helper()
	all := map[string]map[string][]string{}
	files := map[schema.Key][]string{}
	for _, payload := range w.payloads(t, schema.PinsV1) {
		s := parse(t, payload)
		f := factsOf(t, s)
		key := s.Subject[0].Key()
		if files[key] != nil {
			t.Errorf("what %s pins is stated twice", s.Subject[0].Name)
		}
		for _, d := range predicateOf[schema.Pins](t, s).Pins {
			i := slices.IndexFunc(f.Relations, func(r schema.Relation) bool { return r.To == d.Key() })
			files[key] = append(files[key], fmt.Sprintf("%s %s %s", f.Relations[i].Kind, d.Name, d.Key()))
		}
	}
	for _, payload := range w.payloads(t, schema.CommitV1) {
		s := parse(t, payload)
		pins := map[string][]string{}
		for _, d := range predicateOf[schema.Commit](t, s).Pins {
			if d.Digest[schema.GitBlob] != "" {
				if files[d.Key()] == nil {
					t.Errorf("nothing says what %s pins", d.Name)
				}
				pins[d.Name] = files[d.Key()]
			} else {
				pins[d.Name] = []string{"pins " + filepath.Base(d.Name) + " " + string(d.Key())}
			}
		}
		all[s.Subject[0].Digest[schema.GitCommit]] = pins
	}
	return all
}

func factsOf(t *testing.T, s schema.Statement) *schema.Facts {
	t.Helper()
	f, err := s.Facts()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func predicateOf[T any](t *testing.T, s schema.Statement) T {
	t.Helper()
	var p T
	if err := schema.DecodePredicate(s, true, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPins(t *testing.T) {
	dir := newRepository(t)
	want := map[string][]string{}
	for name, f := range pinning {
		write(t, filepath.Join(dir, name), f.text)
		if f.want != nil {
			want[name] = f.want
		}
	}
	first := commit(t, dir, "everything")
	w := watch(t, dir, "")
	w.once(t)
	if diff := cmp.Diff(want, pinnedBy(t, w)[first]); diff != "" {
		t.Errorf("pins (-want +got):\n%s", diff)
	}

	// A commit that changes one of them says again which files it has, and what
	// pins in the changed one only.
	before := len(w.payloads(t, schema.PinsV1))
	write(t, filepath.Join(dir, "data/train.csv.dvc"), strings.Replace(pinning["data/train.csv.dvc"].text, "22a1", "33b2", 1))
	if err := os.Remove(filepath.Join(dir, "pipeline.json")); err != nil {
		t.Fatal(err)
	}
	second := commit(t, dir, "changed")
	third := commit(t, dir, "nothing that pins")
	p := w.once(t)
	if n := len(w.payloads(t, schema.PinsV1)); n != before+1 || p.Duplicates != 0 {
		t.Errorf("%d more statements about pins, %d duplicates, want 1 and none", n-before, p.Duplicates)
	}
	want["data/train.csv.dvc"] = []string{"pins train.csv md5:33b2a2931c8370d3aeedd7183606fd7f"}
	delete(want, "pipeline.json")
	for _, c := range []string{second, third} {
		if diff := cmp.Diff(want, pinnedBy(t, w)[c]); diff != "" {
			t.Errorf("pins of a later commit (-want +got):\n%s", diff)
		}
	}

	// What run states of a commit is what the watcher states.
	said, err := Commit(t.Context(), dir, third, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range said {
		raw, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(w.payloads(t, s.PredicateType), string(raw)) {
			t.Errorf("the watcher does not state %s", raw)
		}
	}
	if len(said) != len(slices.Collect(maps.Keys(want))) { // one file less, the LFS pointer, and the commit itself
		t.Errorf("%d statements about one commit", len(said))
	}
}

func TestSubmodules(t *testing.T) {
	dir := newRepository(t)
	other := filepath.Join(t.TempDir(), "other")
	initRepository(t, other)
	head := runGit(t, other, "", "rev-parse", "HEAD")
	for name, at := range map[string]string{"libs/a": "https://ada:hunter2@git.example/a.git", "b": "git@git.example:acme/b", "c": "../c"} {
		runGit(t, dir, "", "update-index", "--add", "--cacheinfo", "160000,"+head+","+name)
		runGit(t, dir, "", "config", "-f", ".gitmodules", "submodule."+name+".path", name)
		runGit(t, dir, "", "config", "-f", ".gitmodules", "submodule."+name+".url", at)
	}
	runGit(t, dir, "", "add", ".gitmodules")
	runGit(t, dir, "", "commit", "-q", "-m", "submodules")
	w := watch(t, dir, "")
	w.once(t)
	payloads := w.payloads(t, schema.CommitV1)
	c := predicateOf[schema.Commit](t, parse(t, payloads[len(payloads)-1]))
	var got []string
	for _, d := range c.Pins {
		got = append(got, fmt.Sprintf("%s %s %s", d.Name, d.Digest[schema.GitCommit], d.URI))
	}
	want := []string{"b " + head + " git+ssh://git.example/acme/b", "c " + head + " ", "libs/a " + head + " git+https://git.example/a.git"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("submodules (-want +got):\n%s", diff)
	}
}

// TestPinsPartial reads a clone that has no blobs: there is nothing to say of
// what its files pin, and nothing stops.
func TestPinsPartial(t *testing.T) {
	dir := newRepository(t)
	write(t, filepath.Join(dir, "train.csv.dvc"), pinning["data/train.csv.dvc"].text)
	write(t, filepath.Join(dir, "weights.bin"), pinning["weights.bin"].text)
	commit(t, dir, "second")
	runGit(t, dir, "", "config", "uploadpack.allowFilter", "true")
	partial := filepath.Join(t.TempDir(), "partial")
	runGit(t, t.TempDir(), "", "clone", "-q", "--bare", "--filter=blob:none", "file://"+dir, partial)
	w := watch(t, partial, "")
	if p := w.once(t); p.Recorded != 3 || p.Skipped != 0 {
		t.Errorf("a clone without blobs gives %+v", p)
	}
}

// TestPinsBounded has more pins in one commit than are stated of one, and many
// such commits: each is recorded, and says what is left out.
func TestPinsBounded(t *testing.T) {
	dir := newRepository(t)
	var lock strings.Builder
	lock.WriteString("stages:\n")
	for i := range schema.MaxPins + 10 {
		fmt.Fprintf(&lock, "  s%04d: {outs: [{path: %s%d, hash: md5, md5: 22a1a2931c8370d3aeedd718%08x}]}\n", i, strings.Repeat("x", 100), i, i)
	}
	for i := range 200 {
		write(t, filepath.Join(dir, fmt.Sprintf("d%03d/dvc.lock", i)), fmt.Sprintf("%s# %d\n", lock.String(), i))
	}
	head := commit(t, dir, "much")
	w := watch(t, dir, "")
	if p := w.once(t); p.Skipped != 0 {
		t.Errorf("%d skipped", p.Skipped)
	}
	for _, payload := range w.payloads(t, schema.CommitV1) {
		s := parse(t, payload)
		c := predicateOf[schema.Commit](t, s)
		if s.Subject[0].Digest[schema.GitCommit] == head && (len(c.Pins) == 0 || len(c.Pins)+c.LeftOut != 200) {
			t.Errorf("%d pins and %d left out, want 200 together", len(c.Pins), c.LeftOut)
		}
	}
	for _, payload := range w.payloads(t, schema.PinsV1) {
		if p := predicateOf[schema.Pins](t, parse(t, payload)); len(p.Pins) != schema.MaxPins || p.LeftOut != 10 {
			t.Errorf("%d pins and %d left out", len(p.Pins), p.LeftOut)
		}
	}
}

func FuzzPins(f *testing.F) {
	for name, p := range pinning {
		f.Add(filepath.Base(name), []byte(p.text))
	}
	var bomb strings.Builder
	bomb.WriteString("apiVersion: v1\nkind: X\na0: &a0 [{image: x@sha256:" + sum1 + "}]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 8), i-1)
	}
	f.Add("bomb.yaml", []byte(bomb.String()))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		if d, ok := pointer(raw); ok && d.Key() == "" {
			t.Errorf("a pointer to nothing: %+v", d)
		}
		read := pinParser(name)
		if read == nil {
			return
		}
		p, ok := read(raw)
		if !ok {
			return
		}
		file := pinFile{Pins: p, path: "file"}
		if _, err := file.statement("git+https://git.example/x", strings.Repeat("a", 40)); err != nil {
			t.Errorf("what was read makes no statement: %v", err)
		}
	})
}

// TestSigners signs commits with real keys of both kinds.
func TestSigners(t *testing.T) {
	for _, tool := range []string{"ssh-keygen", "gpg"} {
		if _, err := exec.LookPath(tool); err != nil {
			skipTest(t, tool+" not installed")
		}
	}
	dir, home := newRepository(t), t.TempDir()
	trusted, other := filepath.Join(home, "trusted"), filepath.Join(home, "other")
	for _, key := range []string{trusted, other} {
		execute(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	}
	gnupg := filepath.Join(home, "gnupg")
	if err := os.Mkdir(gnupg, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", gnupg)
	t.Cleanup(func() { exec.Command("gpgconf", "--kill", "all").Run() })
	execute(t, "gpg", "--batch", "--quiet", "--faked-system-time", "1600000000!", "--passphrase", "", "--quick-generate-key", "Ada <ada@example.com>", "ed25519", "sign", "never")
	ring := filepath.Join(home, "ring.asc")
	if err := os.WriteFile(ring, execute(t, "gpg", "--armor", "--export"), 0o600); err != nil {
		t.Fatal(err)
	}

	sign := func(name string, config ...string) string {
		write(t, filepath.Join(dir, name), name)
		runGit(t, dir, "", "add", "-A")
		runGit(t, dir, "", append(config, "commit", "-q", "-S", "-m", name)...)
		return runGit(t, dir, "", "rev-parse", "HEAD")
	}
	bySSH := sign("ssh", "-c", "gpg.format=ssh", "-c", "user.signingkey="+trusted)
	byOther := sign("other", "-c", "gpg.format=ssh", "-c", "user.signingkey="+other)
	byPGP := sign("pgp", "-c", "user.signingkey=ada@example.com", "-c", "gpg.program=gpg")
	bySelf := commit(t, dir, "unsigned")
	// The signature of one commit on another.
	raw := runGit(t, dir, "", "cat-file", "commit", bySSH)
	forged := runGit(t, dir, strings.Replace(raw, "\n\nssh", "\n\nforged", 1)+"\n", "hash-object", "-t", "commit", "-w", "--stdin")
	runGit(t, dir, "", "branch", "forged", forged)

	public, err := os.ReadFile(trusted + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := strings.Fields(string(execute(t, "ssh-keygen", "-l", "-f", trusted+".pub")))[1]
	allowed := filepath.Join(home, "allowed_signers")
	signed := func(t *testing.T, line string) map[string]schema.Signer {
		t.Helper()
		if err := os.WriteFile(allowed, []byte("# keys\n\n"+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, name, err := Open(t.Context(), ingest.Place{URL: URL(dir), With: []byte(fmt.Sprintf(`{"allowedSigners":%q,"keyring":%q}`, allowed, ring))}, ingest.Env{})
		if err != nil {
			t.Fatal(err)
		}
		_ = name
		by := map[string]schema.Signer{}
		for e, err := range s.Observe(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			if e.Statement.PredicateType != schema.CommitV1 {
				continue
			}
			if c := predicateOf[schema.Commit](t, e.Statement); c.Signer != nil {
				by[e.Statement.Subject[0].Digest[schema.GitCommit]] = *c.Signer
			}
		}
		return by
	}
	ada := schema.Signer{KeyID: by(t, ring), Name: "Ada <ada@example.com>"}
	want := map[string]schema.Signer{bySSH: {KeyID: fingerprint, Name: "ada@example.com"}, byPGP: ada}
	if diff := cmp.Diff(want, signed(t, "ada@example.com "+string(public))); diff != "" {
		t.Errorf("signers (-want +got); other %s, unsigned %s, forged %s:\n%s", byOther, bySelf, forged, diff)
	}
	valid := map[string]bool{ // by the committer's clock, 2023-11-14
		`"ada@example.com" namespaces="file,git",valid-after="20231101Z",valid-before="202312010000Z" `: true,
		`ada@example.com namespaces="file" `:           false,
		`ada@example.com valid-after="20240101Z" `:     false,
		`ada@example.com valid-before="20230101Z" `:    false,
		`*@example.com valid-after="20231101000000Z" `: true,
	}
	for line, ok := range valid {
		if _, got := signed(t, line+string(public))[bySSH]; got != ok {
			t.Errorf("%s: verified is %v, want %v", line, got, ok)
		}
	}
}

// by is the fingerprint of the one key in a ring.
func by(t *testing.T, ring string) string {
	t.Helper()
	for line := range strings.Lines(string(execute(t, "gpg", "--show-keys", "--with-colons", ring))) {
		if rest, ok := strings.CutPrefix(line, "fpr:::::::::"); ok {
			return strings.ToLower(strings.Trim(rest, ":\n"))
		}
	}
	t.Fatal("gpg shows no fingerprint")
	return ""
}

func execute(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, stderr.String())
	}
	return out
}

func TestAllowedSigners(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
	for line, want := range map[string]string{
		"ada@example.com":                                   "line 1: want PRINCIPALS [OPTIONS] KEYTYPE KEY",
		`"ada ` + key:                                       "line 1: a quotation mark is not closed",
		"ada@example.com cert-authority " + key:             "line 1: cert-authority: certificates are not supported, name the keys themselves",
		`ada@example.com valid-after="yesterday" ` + key:    `line 1: "yesterday" is no time: want YYYYMMDD or YYYYMMDDHHMM[SS], and Z for UTC`,
		`ada@example.com no-touch-required ` + key:          `line 1: "no-touch-required" is no option of an allowed signer`,
		"ada@example.com " + key + "\n\nbob@example.com xx": "line 3: want PRINCIPALS [OPTIONS] KEYTYPE KEY",
	} {
		if _, err := parseAllowedSigners([]byte(line)); err == nil || err.Error() != want {
			t.Errorf("%s\n gives %v, want %s", line, err, want)
		}
	}
}
