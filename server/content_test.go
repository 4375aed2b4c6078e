package server_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/content"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/server"
)

// TestContentThereAndBack sends a file and a folder from one place and fetches
// them to another.
func TestContentThereAndBack(t *testing.T) {
	w := newWorld(t, server.Options{})
	from, to := t.TempDir(), t.TempDir()
	file := writeFile(t, filepath.Join(from, "file"), "some bytes")
	folder := filepath.Join(from, "folder")
	writeFile(t, filepath.Join(folder, "a", "b.txt"), "b")
	writeFile(t, filepath.Join(folder, "empty.txt"), "")
	writeFile(t, filepath.Join(folder, "left-out", "secret"), "secret")
	if err := os.Mkdir(filepath.Join(folder, "nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(writeFile(t, filepath.Join(folder, "run.sh"), "#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../outside", filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	store := w.client.Content(filepath.Join(folder, "left-out"))
	for _, path := range []string{file, folder} {
		key, err := store.Put(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if kept, err := w.store.Has(t.Context(), key); err != nil || !kept {
			t.Errorf("the server keeps %s: %v, %v", key, kept, err)
		}
		if kept, err := store.Has(t.Context(), key); err != nil || !kept {
			t.Errorf("Has(%s) = %v, %v", key, kept, err)
		}
		back := filepath.Join(to, filepath.Base(path))
		if err := store.Fetch(t.Context(), key, back); err != nil {
			t.Fatal(err)
		}
		if got, _, err := content.Digest(t.Context(), back); err != nil || got != key {
			t.Errorf("what came back has the digest %s, %v; want %s", got, err, key)
		}
		if err := store.Fetch(t.Context(), key, back); err == nil {
			t.Error("Fetch wrote over what was there")
		}
	}
	if _, err := os.Lstat(filepath.Join(to, "folder", "left-out")); !os.IsNotExist(err) {
		t.Errorf("what was left out came back: %v", err)
	}
	absent := schema.BytesKey([]byte("never sent"))
	if kept, err := store.Has(t.Context(), absent); err != nil || kept {
		t.Errorf("Has(absent) = %v, %v", kept, err)
	}
	if err := store.Fetch(t.Context(), absent, filepath.Join(to, "absent")); !errors.Is(err, client.ErrNotKept) {
		t.Errorf("Fetch(absent) = %v, want ErrNotKept", err)
	}
	if _, err := os.Lstat(filepath.Join(to, "absent")); !os.IsNotExist(err) {
		t.Errorf("a failed Fetch left %v", err)
	}
}

func TestAlias(t *testing.T) {
	w := newWorld(t, server.Options{})
	store := w.client.Content()
	pack, err := store.Put(t.Context(), writeFile(t, filepath.Join(t.TempDir(), "pack"), "a pack"))
	if err != nil {
		t.Fatal(err)
	}
	commit := schema.Key("gitCommit:" + strings.Repeat("1", 40))
	if err := store.Alias(t.Context(), commit, pack); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "back")
	if err := store.Fetch(t.Context(), commit, back); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(back); err != nil || string(raw) != "a pack" {
		t.Errorf("the commit's bytes are %q, %v", raw, err)
	}
	if err := store.Alias(t.Context(), schema.BytesKey([]byte("x")), pack); err == nil {
		t.Error("a sha256 key was made to stand for other bytes")
	}
	if err := store.Alias(t.Context(), commit, schema.BytesKey([]byte("absent"))); err == nil {
		t.Error("an alias of bytes that are not kept was made")
	}
}

// TestBadUploads: nothing counts that does not have the digest it is sent
// under, and no tar file writes outside its folder.
func TestBadUploads(t *testing.T) {
	scratch := t.TempDir()
	w := newWorld(t, server.Options{MaxContent: 1 << 20, Scratch: scratch})
	tree := "retraceTree1:" + strings.Repeat("0", 64)
	outside := filepath.Join(scratch, "escaped")
	tests := []struct {
		name, key, body string
		status          int
		field           string
	}{
		{"other bytes", string(schema.BytesKey([]byte("these"))), "those", 422, "key"},
		{"other folder", tree, tarOf(t, tar.Header{Name: "a"}), 422, "key"},
		{"not a digest", "sha256:abc", "x", 422, "key"},
		{"digest of another kind", "gitCommit:" + strings.Repeat("1", 40), "x", 422, "key"},
		{"no tar file", tree, strings.Repeat("x", 2000), 422, ""},
		{"cut off", tree, tarOf(t, tar.Header{Name: "a", Size: 600})[:700], 422, "a"},
		{"parent", tree, tarOf(t, tar.Header{Name: "../escaped"}), 422, "../escaped"},
		{"absolute", tree, tarOf(t, tar.Header{Name: outside}), 422, outside},
		{"through a link", tree, tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: scratch}, tar.Header{Name: "l/escaped"}), 422, "l/escaped"},
		{"device", tree, tarOf(t, tar.Header{Name: "null", Typeflag: tar.TypeChar}), 422, "null"},
		{"FIFO", tree, tarOf(t, tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}), 422, "fifo"},
		{"hard link", tree, tarOf(t, tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), 422, "hard"},
		{"one name twice", tree, tarOf(t, tar.Header{Name: "a"}, tar.Header{Name: "a"}), 422, "a"},
		{"too large", string(schema.BytesKey([]byte("x"))), strings.Repeat("x", 1<<20+1), 413, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := w.call("PUT", "/v1/content/"+tt.key, tt.body, w.bearer(), "Content-Type: application/octet-stream")
			if p := problem(t, body); status != tt.status || p.Field != tt.field {
				t.Errorf("got %d %s, want %d and field %q", status, body, tt.status, tt.field)
			}
			if _, err := os.Lstat(outside); !os.IsNotExist(err) {
				t.Errorf("%s was written", outside)
			}
			if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
				t.Errorf("the upload left %v, %v", left, err)
			}
		})
	}
	for _, body := range []string{"these", "those", "x"} {
		if kept, err := w.store.Has(t.Context(), schema.BytesKey([]byte(body))); err != nil || kept {
			t.Errorf("%q is kept: %v, %v", body, kept, err)
		}
	}
}

func tarOf(t *testing.T, members ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range members {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Mode = 0o644
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
