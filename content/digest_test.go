package content

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/retrace-ledger/retrace/schema"
)

// The vectors were made by testdata/trees.py, which knows nothing of this
// package.
func TestDigestVectors(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/trees.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		What    string
		Entries []struct {
			Path, Text, Target string
			Folder, Exec       bool
		}
		RetraceTree1 string
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 12 {
		t.Fatalf("%d vectors, want 12", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.What, func(t *testing.T) {
			dir := t.TempDir()
			for _, e := range v.Entries {
				p := filepath.Join(dir, e.Path)
				var err error
				switch {
				case e.Folder:
					err = os.Mkdir(p, 0o700)
				case e.Target != "":
					err = os.Symlink(e.Target, p)
				case e.Exec:
					err = os.WriteFile(p, []byte(e.Text), 0o700)
				default:
					err = os.WriteFile(p, []byte(e.Text), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got, files, err := Digest(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if want := schema.Key(schema.RetraceTree1 + ":" + v.RetraceTree1); got != want || len(files) != len(v.Entries) {
				t.Errorf("Digest = %s with %d entries, want %s with %d", got, len(files), want, len(v.Entries))
			}
		})
	}
}

func TestDigestRefuses(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"ok": "1", "d/ok": "1"})
	fifo := filepath.Join(dir, "d", "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo} {
		if _, _, err := Digest(t.Context(), path); !errors.Is(err, ErrSpecial) || !strings.Contains(err.Error(), fifo) || !strings.Contains(err.Error(), "FIFO") {
			t.Errorf("Digest(%s) = %v, want ErrSpecial that names %s", path, err, fifo)
		}
	}
	// A path that is short enough for a socket.
	short, err := os.MkdirTemp("", "rt")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", filepath.Join(short, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, _, err := Digest(t.Context(), short); !errors.Is(err, ErrSpecial) {
		t.Errorf("Digest of a folder with a socket = %v, want ErrSpecial", err)
	}
	if _, _, err := Digest(t.Context(), "/dev/null"); !errors.Is(err, ErrSpecial) {
		t.Errorf("Digest(/dev/null) = %v, want ErrSpecial", err)
	}
	if _, _, err := Digest(t.Context(), filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("Digest(absent) = %v, want an error that names it", err)
	}
	odd := write(t, map[string]string{"a\xffb": "1"})
	if _, _, err := Digest(t.Context(), odd); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("Digest of a name that is not UTF-8 = %v, want an error", err)
	}
}

func TestDigestUnreadable(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"d/secret": "1"})
	path := filepath.Join(dir, "d", "secret")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// Root reads everything but this, which is empty at its beginning.
		dir, path = "/proc/self/mem", "/proc/self/mem"
		if _, err := os.Stat(path); err != nil {
			t.Skip("running as root, for whom everything can be read")
		}
	}
	if _, _, err := Digest(t.Context(), dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Digest = %v, want an error that names %s", err, path)
	}
}

func TestDigestLinks(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"real/f": "1", "loop/a": "-> b", "loop/b": "-> a", "loop/up": "-> ..", "out": "-> /etc"})
	key, files, err := Digest(t.Context(), dir)
	if err != nil || len(files) != 7 {
		t.Fatalf("Digest = %d entries, %v, want 7 with links as they are", len(files), err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if got, _, err := Digest(t.Context(), link); err != nil || got != key {
		t.Errorf("Digest of a link to a folder = %s, %v, want that of the folder, %s", got, err, key)
	}
	if _, _, err := Digest(t.Context(), filepath.Join(dir, "loop/a")); err == nil {
		t.Errorf("Digest of a link in a circle succeeded")
	}
}

// hook calls fn before the first byte is written to it.
type hook struct{ fn func() }

func (h *hook) Write(p []byte) (int, error) {
	if h.fn != nil {
		h.fn()
		h.fn = nil
	}
	return len(p), nil
}

func TestChangedWhileRead(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"grown": func(p string) error {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("more")
			return errors.Join(err, f.Close())
		},
		"cut":             func(p string) error { return os.Truncate(p, 2) },
		"made executable": func(p string) error { return os.Chmod(p, 0o755) },
		"replaced by another": func(p string) error {
			if err := os.WriteFile(p+".new", []byte("12345"), 0o644); err != nil {
				return err
			}
			return os.Rename(p+".new", p)
		},
		"replaced by a FIFO": func(p string) error {
			return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600))
		},
		"replaced by a link": func(p string) error {
			return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p))
		},
		"gone": os.Remove,
	} {
		for when, during := range map[string]bool{"before reading": false, "while reading": true} {
			if during && (strings.HasPrefix(name, "replaced") || name == "gone") {
				continue // what was opened is read to its end, and was whole
			}
			dir := write(t, map[string]string{"f": "12345"})
			tree, err := openTree(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			if _, err := tree.scan(t.Context()); err != nil {
				t.Fatal(err)
			}
			w := &hook{fn: func() {
				if err := change(filepath.Join(dir, "f")); err != nil {
					t.Error(err)
				}
			}}
			if !during {
				w.Write(nil)
			}
			if _, _, err := tree.hash(t.Context(), "f", w); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "f")) {
				t.Errorf("%s %s: hash = %v, want an error that names the file", name, when, err)
			}
		}
	}
}

// A file that changes between being digested and being kept is not kept under
// the digest that it had.
func TestChangedBeforeKept(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"f": "12345"})
	s := open(t, filepath.Join(t.TempDir(), "store"))
	tree, err := openTree(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	key, files, err := tree.digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	// Same size, same time: only the bytes tell.
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("54321"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "f"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := s.keep(t.Context(), tree, key, files, ""); !errors.Is(err, ErrChanged) {
		t.Errorf("keep = %v, want ErrChanged", err)
	}
	for _, k := range []schema.Key{key, schema.Key("sha256:" + files[0].SHA256)} {
		if has, err := s.Has(t.Context(), k); has || err != nil {
			t.Errorf("Has(%s) = %v, %v, want false", k, has, err)
		}
	}
}

func TestExclude(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"f": "1", ".retrace/ledger/x": "2", "sub/.retrace/y": "3"})
	plain := write(t, map[string]string{"f": "1", "sub/.retrace/y": "3"})
	want, _, err := Digest(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	ledger := filepath.Join(dir, ".retrace")
	link := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Symlink(ledger, link); err != nil {
		t.Fatal(err)
	}
	for _, exclude := range []string{ledger, link, dir + "/sub/../.retrace"} {
		if got, _, err := Digest(t.Context(), dir, exclude, "/no/such/folder"); err != nil || got != want {
			t.Errorf("Digest without %s = %s, %v, want %s", exclude, got, err, want)
		}
	}
	for _, inside := range []string{ledger, filepath.Join(ledger, "ledger"), filepath.Join(ledger, "ledger/x")} {
		if _, _, err := Digest(t.Context(), inside, ledger); !errors.Is(err, ErrExcluded) {
			t.Errorf("Digest(%s) = %v, want ErrExcluded", inside, err)
		}
	}
	s, err := Open(t.Context(), filepath.Join(ledger, "content"), &Options{Exclude: []string{ledger}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	if got := mustPut(t, s, dir); got != want {
		t.Errorf("Put = %s, want %s", got, want)
	}
	if got := s.Excluded(dir); len(got) != 1 || got[0] != ".retrace" {
		t.Errorf("Excluded = %v, want the ledger's folder", got)
	}
}

func TestDigestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := write(t, sample)
	if _, _, err := Digest(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("Digest = %v, want %v", err, context.Canceled)
	}
	if _, _, err := Digest(ctx, filepath.Join(dir, "run.sh")); !errors.Is(err, context.Canceled) {
		t.Errorf("Digest of a file = %v, want %v", err, context.Canceled)
	}
	_, err := io.Copy(io.Discard, &contextReader{ctx, strings.NewReader("x")})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("copying = %v, want %v", err, context.Canceled)
	}
}
