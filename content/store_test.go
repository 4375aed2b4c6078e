package content

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/schema"
)

// open returns a store in dir that is closed when the test ends.
func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// write makes files below a new folder: a name that ends in "/" is a folder,
// content "-> target" a link, "+x " before content makes it executable.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			if err := os.Symlink(target, p); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mode := os.FileMode(0o644)
		content, exec := strings.CutPrefix(content, "+x ")
		if exec {
			mode = 0o755
		}
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var sample = map[string]string{
	"data/a.csv": "1,2,3\n", "data/b.csv": strings.Repeat("4,5,6\n", 1000), "data/copy.csv": "1,2,3\n",
	"run.sh": "+x #!/bin/sh\n", "empty": "", "none/": "", "latest": "-> data/b.csv", "out": "-> /nowhere",
}

func mustPut(t *testing.T, s *Store, path string) schema.Key {
	t.Helper()
	key, err := s.Put(t.Context(), path)
	if err != nil {
		t.Fatalf("Put(%s) = %v", path, err)
	}
	return key
}

func TestPutFetch(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store"))
	src := write(t, sample)
	key := mustPut(t, s, src)
	if key.Algorithm() != schema.RetraceTree1 {
		t.Errorf("Put(folder) = %s, want a %s key", key, schema.RetraceTree1)
	}
	dst := filepath.Join(t.TempDir(), "out")
	if err := s.Fetch(t.Context(), key, dst); err != nil {
		t.Fatal(err)
	}
	got, gotFiles, err := Digest(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	_, wantFiles, err := Digest(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	if got != key {
		t.Errorf("Digest(Fetch(%s)) = %s\n%s", key, got, cmp.Diff(wantFiles, gotFiles))
	}
	if err := s.Fetch(t.Context(), key, dst); err == nil {
		t.Errorf("Fetch over %s succeeded, want an error: it exists", dst)
	}
	info, err := s.Stat(t.Context(), key)
	if err != nil || info.Type != "folder" || info.Size != 6+6000+6+10 {
		t.Errorf("Stat(%s) = %+v, %v, want a folder of 6022 bytes", key, info, err)
	}
}

func TestPutFile(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "store"))
	src := write(t, map[string]string{"f": "hello\n", "g": ""})
	for name, want := range map[string]string{"f": "hello\n", "g": ""} {
		key := mustPut(t, s, filepath.Join(src, name))
		if want := schema.BytesKey([]byte(want)); key != want {
			t.Errorf("Put(%s) = %s, want %s", name, key, want)
		}
		rd, err := s.Open(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(rd)
		if err != nil || string(got) != want {
			t.Errorf("Open(%s) gives %q, %v, want %q", key, got, err, want)
		}
		rd.Close()
		dst := filepath.Join(t.TempDir(), "out")
		if err := s.Fetch(t.Context(), key, dst); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(dst); err != nil || string(got) != want {
			t.Errorf("Fetch(%s) left %q, %v, want %q", key, got, err, want)
		}
	}
	absent := schema.BytesKey([]byte("absent"))
	if has, err := s.Has(t.Context(), absent); has || err != nil {
		t.Errorf("Has(absent) = %v, %v, want false", has, err)
	}
	if err := s.Fetch(t.Context(), absent, filepath.Join(t.TempDir(), "x")); !errors.Is(err, ErrNotKept) {
		t.Errorf("Fetch(absent) = %v, want ErrNotKept", err)
	}
}

// A store that is asked for nothing but what it knows opens no repository:
// `retrace run -- true` must not wait for a key derivation.
func TestWarmStoreStaysClosed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	src := write(t, sample)
	key := mustPut(t, open(t, dir), src)
	s := open(t, dir)
	start := time.Now()
	if again := mustPut(t, s, src); again != key {
		t.Errorf("Put again = %s, want %s", again, key)
	}
	if s.rep != nil {
		t.Errorf("putting the same again opened the repository")
	}
	t.Logf("warm Put took %v", time.Since(start))
	start = time.Now()
	if err := s.Fetch(t.Context(), key, filepath.Join(t.TempDir(), "x")); err != nil {
		t.Fatal(err)
	}
	t.Logf("opening and fetching took %v", time.Since(start))
	start = time.Now()
	mustPut(t, s, write(t, map[string]string{"new": "new\n"}))
	t.Logf("writing to an open store took %v", time.Since(start))
}
