package git

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

func resource(commit, uri, content string) schema.Resource {
	return schema.Resource{Key: schema.Key(schema.GitCommit + ":" + commit), Kind: "git", URI: uri, Content: content, Digests: schema.DigestSet{schema.GitCommit: commit}}
}

// TestFetchedTree compares with what git itself checks out, where no
// attributes ask it to convert anything.
func TestFetchedTree(t *testing.T) {
	dir := newHistory(t)
	commit := runGit(t, dir, "", "rev-parse", "HEAD")
	to := t.TempDir()
	f := NewFetcher(ingest.Env{})
	if err := f.Fetch(t.Context(), resource(commit, "git+file://"+dir, ""), to); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"deep/er/file.txt": "crlf\n$Id$\n", "first": "first\n"} {
		got, err := os.ReadFile(filepath.Join(to, name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is %q, want the blob's bytes %q", name, got, want)
		}
	}
	if target, err := os.Readlink(filepath.Join(to, "link")); err != nil || target != "deep/er" {
		t.Errorf("link leads to %q (%v), want deep/er", target, err)
	}
	if info, err := os.Stat(filepath.Join(to, "run.sh")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("run.sh is not executable (%v)", err)
	}
	// git agrees that this is the commit, and that its objects are sound.
	if got := runGit(t, to, "", "rev-parse", "HEAD"); got != commit {
		t.Errorf("HEAD is %s, want %s", got, commit)
	}
	runGit(t, to, "", "fsck", "--strict")
	os.Remove(filepath.Join(to, ".gitattributes")) // asks for conversions that are not made
	if got := runGit(t, to, "", "status", "--porcelain"); got != "D .gitattributes" {
		t.Errorf("git status of what was fetched says:\n%s", got)
	}
}

func TestDigestSeesEveryChange(t *testing.T) {
	dir := newHistory(t)
	runGit(t, dir, "", "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",module")
	runGit(t, dir, "", "commit", "-q", "-m", "submodule")
	commit := runGit(t, dir, "", "rev-parse", "HEAD")
	f := NewFetcher(ingest.Env{})
	for name, alter := range map[string]func(dir string) error{
		"":             func(string) error { return nil },
		"content":      func(dir string) error { return os.WriteFile(filepath.Join(dir, "first"), []byte("First\n"), 0o644) },
		"missing":      func(dir string) error { return os.Remove(filepath.Join(dir, "deep/er/file.txt")) },
		"added":        func(dir string) error { return os.WriteFile(filepath.Join(dir, "deep/new"), nil, 0o644) },
		"mode":         func(dir string) error { return os.Chmod(filepath.Join(dir, "run.sh"), 0o644) },
		"link":         func(dir string) error { return relink(filepath.Join(dir, "link"), "deep/ar") },
		"link to file": func(dir string) error { return relink(filepath.Join(dir, "first"), "run.sh") },
		"submodule":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "module/x"), nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			to := t.TempDir()
			layout, err := f.LayOut(t.Context(), resource(commit, "git+file://"+dir, ""), to)
			if err != nil {
				t.Fatal(err)
			}
			if len(layout.Submodules) != 1 || layout.Submodules[0] != "module" {
				t.Errorf("submodules are %v, want module", layout.Submodules)
			}
			if err := alter(to); err != nil {
				t.Fatal(err)
			}
			got, err := f.Digest(t.Context(), to)
			if name == "" && (err != nil || got.Hex() != commit) {
				t.Errorf("Digest = %s, %v, want %s", got, err, commit)
			}
			if name != "" && err == nil {
				t.Errorf("Digest = %s of an altered folder", got)
			}
		})
	}
}

func relink(name, target string) error {
	return errors.Join(os.Remove(name), os.Symlink(target, name))
}

func TestPack(t *testing.T) {
	dir := newHistory(t)
	commit := runGit(t, dir, "", "rev-parse", "HEAD")
	var one, two bytes.Buffer
	if err := Pack(t.Context(), filepath.Join(dir, "deep"), commit, &one); err != nil {
		t.Fatal(err)
	}
	// The same commit in a repository that stores it otherwise.
	bare := filepath.Join(t.TempDir(), "bare.git")
	runGit(t, dir, "", "clone", "-q", "--bare", dir, bare)
	runGit(t, bare, "", "repack", "-q", "-a", "-d", "-f")
	if err := Pack(t.Context(), bare, commit, &two); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("two packs of one commit differ: %d and %d bytes", one.Len(), two.Len())
	}
	// It is a pack to git, too.
	name := filepath.Join(t.TempDir(), "x.pack")
	if err := os.WriteFile(name, one.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	runGit(t, filepath.Dir(name), "", "index-pack", "x.pack")

	to := t.TempDir()
	got, err := Unpack(t.Context(), bytes.NewReader(one.Bytes()), to)
	if err != nil || got != commit {
		t.Fatalf("Unpack = %s, %v, want %s", got, err, commit)
	}
	if key, err := NewFetcher(ingest.Env{}).Digest(t.Context(), to); err != nil || key.Hex() != commit {
		t.Errorf("Digest = %s, %v, want %s", key, err, commit)
	}

	// A flipped byte anywhere is found.
	for _, i := range []int{5, 13, 20, one.Len() / 2, one.Len() - 25, one.Len() - 1} {
		bad := bytes.Clone(one.Bytes())
		bad[i] ^= 0x40
		if got, err := Unpack(t.Context(), bytes.NewReader(bad), t.TempDir()); err == nil {
			t.Errorf("a pack with byte %d of %d flipped unpacks to %s", i, len(bad), got)
		}
	}
	if _, err := Unpack(t.Context(), bytes.NewReader(one.Bytes()[:one.Len()/2]), t.TempDir()); err == nil {
		t.Error("half a pack unpacks")
	}
}

// store is content in a folder.
type store struct{ dir string }

func (s store) Put(context.Context, string) (schema.Key, error) { return "", errors.ErrUnsupported }
func (s store) Has(context.Context, schema.Key) (bool, error)   { return false, errors.ErrUnsupported }
func (s store) Fetch(_ context.Context, k schema.Key, to string) error {
	raw, err := os.ReadFile(filepath.Join(s.dir, k.Hex()))
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o600)
}

func TestFetchFromStore(t *testing.T) {
	dir := newHistory(t)
	commit := runGit(t, dir, "", "rev-parse", "HEAD")
	var pack bytes.Buffer
	if err := Pack(t.Context(), dir, commit, &pack); err != nil {
		t.Fatal(err)
	}
	remove(t, dir)
	kept := store{t.TempDir()}
	key := schema.BytesKey(pack.Bytes())
	if err := os.WriteFile(filepath.Join(kept.dir, key.Hex()), pack.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f := NewFetcher(ingest.Env{Content: kept})
	to := t.TempDir()
	if err := f.Fetch(t.Context(), resource(commit, "git+file://"+dir, InStore(key)), to); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Digest(t.Context(), to); err != nil || got.Hex() != commit {
		t.Errorf("Digest = %s, %v, want %s", got, err, commit)
	}
	// A pack of another commit is not taken for this one.
	if err := f.Fetch(t.Context(), resource(strings.Repeat("1", 40), "", InStore(key)), t.TempDir()); err == nil {
		t.Error("the pack of one commit was laid out as another")
	}
}

// TestFetchUnreachable fetches a commit that only its ID leads to.
func TestFetchUnreachable(t *testing.T) {
	dir := newHistory(t)
	lost := commit(t, dir, "lost")
	runGit(t, dir, "", "reset", "-q", "--hard", "HEAD~1")
	server := serve(t, filepath.Dir(dir))
	f := NewFetcher(ingest.Env{Cache: t.TempDir()})
	r := resource(lost, "git+"+server.URL+"/repo@"+lost, "")
	if err := f.Fetch(t.Context(), r, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no branch and no tag") {
		t.Errorf("a commit that the server does not give: %v", err)
	}
	runGit(t, dir, "", "config", "uploadpack.allowAnySHA1InWant", "true")
	to := t.TempDir()
	if err := f.Fetch(t.Context(), r, to); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Digest(t.Context(), to); err != nil || got.Hex() != lost {
		t.Errorf("Digest = %s, %v, want %s", got, err, lost)
	}
}

// TestHostileTrees lays out trees that want to be written elsewhere.
func TestHostileTrees(t *testing.T) {
	dir := newRepository(t)
	outside := t.TempDir()
	blob := runGit(t, dir, "pwned", "hash-object", "-w", "--stdin")
	link := runGit(t, dir, outside, "hash-object", "-w", "--stdin")
	inner := runGit(t, dir, "100644 blob "+blob+"\tpwned\n", "mktree")
	entry := func(mode, name, id string) string {
		raw, err := hex.DecodeString(id)
		if err != nil {
			t.Fatal(err)
		}
		return mode + " " + name + "\x00" + string(raw)
	}
	for name, tree := range map[string]string{
		"dot git":      entry("40000", ".git", inner),
		"dot GIT":      entry("40000", ".GIT", inner),
		"dot git dot":  entry("40000", ".git.", inner),
		"parent":       entry("40000", "..", inner),
		"slash":        entry("100644", "../pwned", blob),
		"link, folder": entry("120000", "a", link) + entry("40000", "a", inner),
		"folder, link": entry("40000", "a", inner) + entry("120000", "a", link),
		"twice":        entry("100644", "a", blob) + entry("100644", "a", blob),
	} {
		id := runGit(t, dir, tree, "hash-object", "-t", "tree", "-w", "--literally", "--stdin")
		commit := runGit(t, dir, "", "commit-tree", "-m", name, id)
		to := t.TempDir()
		err := NewFetcher(ingest.Env{}).Fetch(t.Context(), resource(commit, "git+file://"+dir, ""), to)
		if err == nil {
			t.Errorf("%s: the tree was laid out", name)
		}
		if _, err := os.Lstat(filepath.Join(outside, "pwned")); err == nil {
			t.Fatalf("%s: a file was written outside", name)
		}
		if _, err := os.Lstat(filepath.Join(to, ".git", "pwned")); err == nil {
			t.Errorf("%s: a file was written into .git", name)
		}
	}
}
