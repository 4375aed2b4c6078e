package content

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/schema"
)

func TestAlias(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	pack := mustPut(t, s, filepath.Join(write(t, map[string]string{"pack": "PACK"}), "pack"))
	commit := schema.Key(schema.GitCommit + ":" + strings.Repeat("ab", 20))
	for range 2 {
		if err := s.Alias(t.Context(), commit, pack); err != nil {
			t.Fatal(err)
		}
	}
	again := open(t, dir)
	if info, err := again.Stat(t.Context(), commit); err != nil || info.Key != pack || info.Size != 4 || info.Type != "file" {
		t.Errorf("Stat(alias) = %+v, %v, want the pack", info, err)
	}
	rd, err := again.Open(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	if got, err := io.ReadAll(rd); string(got) != "PACK" || err != nil {
		t.Errorf("Open(alias) gives %q, %v", got, err)
	}
	if err := s.Alias(t.Context(), commit, schema.BytesKey([]byte("absent"))); !errors.Is(err, ErrNotKept) {
		t.Errorf("Alias to what is not kept = %v, want ErrNotKept", err)
	}
	// The store's own keys say what the bytes are; no one may say otherwise.
	if err := s.Alias(t.Context(), schema.BytesKey([]byte("other")), pack); err == nil {
		t.Errorf("an alias that is itself a digest of bytes was taken")
	}
	if _, found, err := verify(t, dir); len(found) > 0 || err != nil {
		t.Errorf("Verify found %q, %v", found, err)
	}
}

func TestWriteTar(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store"))
	key := mustPut(t, s, write(t, sample))
	var first, second bytes.Buffer
	for _, w := range []io.Writer{&first, &second} {
		if err := s.WriteTar(t.Context(), key, w); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("the same folder gives different streams")
	}
	var names []string
	dir := t.TempDir()
	tr := tar.NewReader(&first)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		p := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.Mkdir(p, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, p)
		default:
			raw, rerr := io.ReadAll(tr)
			err = errors.Join(rerr, os.WriteFile(p, raw, h.FileInfo().Mode()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"data/", "data/a.csv", "data/b.csv", "data/copy.csv", "empty", "latest", "none/", "out", "run.sh"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	if got, _, err := Digest(t.Context(), dir); got != key || err != nil {
		t.Errorf("what the stream unpacks to has the digest %s, %v, want %s", got, err, key)
	}
	if err := s.WriteTar(t.Context(), schema.BytesKey([]byte("1,2,3\n")), io.Discard); err == nil {
		t.Errorf("WriteTar of a file succeeded")
	}
	if _, err := s.Open(t.Context(), key); err == nil {
		t.Errorf("Open of a folder succeeded")
	}
}

// The files of a folder that is kept are kept.
func TestMembersAreKept(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store"))
	_, files, err := s.PutFiles(t.Context(), write(t, sample))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Type != "file" {
			continue
		}
		if info, err := s.Stat(t.Context(), schema.Key("sha256:"+f.SHA256)); err != nil || info.Size != f.Size {
			t.Errorf("Stat(%s) = %+v, %v, want %d bytes", f.Path, info, err, f.Size)
		}
	}
}

// A store may be moved, and be read where nothing can be written.
func TestMoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := mustPut(t, s, write(t, sample))
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	checkKept(t, moved, []schema.Key{key})
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s came back", dir)
	}
}

// A store whose repository is gone is damaged, and nothing new is written over
// what is left.
func TestRepositoryGone(t *testing.T) {
	t.Parallel()
	dir := filled(t)
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "blobs"), filepath.Join(dir, "aside")); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if _, err := s.Put(t.Context(), write(t, map[string]string{"new": "x"})); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("Put = %v, want an error: the repository is missing", err)
	}
	if _, found, err := verify(t, dir); len(found) == 0 || err != nil {
		t.Errorf("Verify found nothing, %v", err)
	}
	if now, err := os.ReadFile(filepath.Join(dir, "password")); !bytes.Equal(now, password) || err != nil {
		t.Errorf("the password was overwritten (%v)", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "password")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password has mode %v, %v, want 0600", info.Mode(), err)
	}
}

// A listing that would lead out of the place it is laid out in, or through a
// link, is refused before anything is written.
func TestHostileListing(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("0", 64)
	file := func(path string) member {
		return member{SnapshotFile: schema.SnapshotFile{Path: path, Type: "file", SHA256: sum}}
	}
	link := member{SnapshotFile: schema.SnapshotFile{Path: "a", Type: "link", Target: "/etc"}}
	for name, members := range map[string][]member{
		"up":               {file("../x")},
		"absolute":         {file("/x")},
		"through a link":   {link, file("a/x")},
		"through a file":   {file("a"), file("a/x")},
		"without folder":   {file("a/x")},
		"twice":            {file("a"), file("a")},
		"unknown type":     {{SnapshotFile: schema.SnapshotFile{Path: "a", Type: "device"}}},
		"another's digest": {file("a")},
	} {
		key := schema.Key(schema.RetraceTree1 + ":" + sum)
		var files []schema.SnapshotFile
		for _, m := range members {
			files = append(files, m.SnapshotFile)
		}
		if tree, err := schema.TreeDigest(files); err == nil && name != "another's digest" {
			key = schema.Key(schema.RetraceTree1 + ":" + tree) // the digest is right, and still
		}
		if err := checkMembers(key, members); err == nil {
			t.Errorf("%s: a listing that must be refused was taken", name)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, r := range []record{
		{kind: kindFile, size: 0, handle: "Ixabc0123"}, {kind: kindFolder, size: 1 << 40, handle: "k0"},
		{kind: kindAlias, size: 3, handle: "sha256:" + strings.Repeat("0", 64)},
	} {
		f.Add(bytes.TrimSuffix(appendRecord(nil, schema.Key("gitCommit:"+strings.Repeat("ab", 20)), r), []byte("\n")))
	}
	f.Add([]byte(""))
	f.Add([]byte("sha256:" + strings.Repeat("0", 64) + " f 1 x 00000000"))
	f.Fuzz(func(t *testing.T, line []byte) {
		k, r, ok := parseRecord(line)
		if !ok {
			return
		}
		if again := appendRecord(nil, k, r); string(again) != string(line)+"\n" {
			t.Errorf("parseRecord(%q) = %s, %+v, which is written as %q", line, k, r, again)
		}
	})
}

func FuzzParseSum(f *testing.F) {
	line := "p8/1e47.f 30964 0badcafe "
	f.Add([]byte(fmt.Sprintf("%s%08x", line, crc(line))))
	f.Add([]byte("../x 1 00000000 00000000"))
	f.Fuzz(func(t *testing.T, line []byte) {
		name, v, ok := parseSum(line)
		if ok && (!filepath.IsLocal(name) || v.size < 0) {
			t.Errorf("parseSum(%q) = %q, %+v", line, name, v)
		}
	})
}
