package content

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

// envWriter makes the test binary a process that puts files into the store
// that it names, and prints the key of each when Put has returned.
const envWriter = "RETRACE_TEST_CONTENT_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envWriter); dir != "" {
		if err := writer(dir, os.Getenv("RETRACE_TEST_CONTENT_COUNT")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func writer(dir, count string) error {
	ctx := context.Background()
	s, err := Open(ctx, dir, nil)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "writer")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	n := 1 << 30
	if count != "" {
		if _, err := fmt.Sscan(count, &n); err != nil {
			return err
		}
	}
	for i := range n {
		src := filepath.Join(tmp, fmt.Sprint(i))
		if err := os.Mkdir(src, 0o755); err != nil {
			return err
		}
		// Some content that all writers share, some of its own.
		for name, text := range map[string]string{"shared": fmt.Sprint("shared ", i), "own": fmt.Sprint(os.Getpid(), " ", i)} {
			if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
		key, err := s.Put(ctx, src)
		if err != nil {
			return err
		}
		fmt.Println(key)
	}
	return s.Close(ctx)
}

func startWriter(t *testing.T, dir, count string) (*exec.Cmd, io.Reader) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), envWriter+"="+dir, "RETRACE_TEST_CONTENT_COUNT="+count)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// checkKept fetches every key and verifies the whole store.
func checkKept(t *testing.T, dir string, keys []schema.Key) {
	t.Helper()
	s := open(t, dir)
	for i, k := range keys {
		dst := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := s.Fetch(t.Context(), k, dst); err != nil {
			t.Errorf("Fetch(%s): %v", k, err)
		}
	}
	if _, found, err := verify(t, dir); len(found) > 0 || err != nil {
		t.Errorf("Verify found %q, %v", found, err)
	}
}

// Processes that use one store at once, from its creation on, all keep what
// they put.
func TestProcesses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	const processes, each = 6, 3
	var keys []schema.Key
	var writers []*exec.Cmd
	var outs []io.Reader
	for range processes {
		cmd, out := startWriter(t, dir, fmt.Sprint(each))
		writers, outs = append(writers, cmd), append(outs, out)
	}
	for i, cmd := range writers {
		sc := bufio.NewScanner(outs[i])
		for sc.Scan() {
			keys = append(keys, schema.Key(sc.Text()))
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if len(keys) != processes*each {
		t.Errorf("%d keys, want %d", len(keys), processes*each)
	}
	checkKept(t, dir, keys)
}

// Sixteen goroutines share one store, and sixteen stores one folder.
func TestGoroutines(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	shared := open(t, dir)
	src := make([]string, 16)
	for i := range src {
		src[i] = write(t, map[string]string{"shared": "the same", "own": fmt.Sprint(i)})
	}
	keys := make([]schema.Key, len(src))
	var g errgroup.Group
	for i := range src {
		g.Go(func() error {
			s := shared
			if i%4 == 0 {
				var err error
				if s, err = Open(t.Context(), dir, nil); err != nil {
					return err
				}
				defer s.Close(context.Background())
			}
			var err error
			keys[i], err = s.Put(t.Context(), src[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, k := range keys {
		if has, err := shared.Has(t.Context(), k); !has || err != nil {
			t.Errorf("Has(%s) = %v, %v after Put %d", k, has, err, i)
		}
	}
	checkKept(t, dir, keys)
}

// What Put returned for is there after the process was killed. This does not
// test power loss: what the system had not written yet survives a kill.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	var keys []schema.Key
	for range 6 {
		cmd, out := startWriter(t, dir, "")
		sc := bufio.NewScanner(out)
		lines := make(chan string)
		go func() {
			defer close(lines)
			for sc.Scan() {
				lines <- sc.Text()
			}
		}()
		first, ok := <-lines // it is at work
		if !ok {
			t.Fatalf("the writer ended by itself: %v", cmd.Wait())
		}
		keys = append(keys, schema.Key(first))
		kill := time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		for line := range lines {
			if strings.HasPrefix(line, schema.RetraceTree1+":") && len(line) == len(first) {
				keys = append(keys, schema.Key(line))
			}
		}
		_ = cmd.Wait()
		kill.Stop()
	}
	t.Logf("%d keys acknowledged", len(keys))
	checkKept(t, dir, keys)
}

// A crash between the bytes and their key leaves nothing but the bytes: the
// key is absent, and the next Put adds it.
func TestCrashBeforeKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	src := write(t, map[string]string{"f": "bytes without a key"})
	tree, err := openTree(src, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	key, files, err := tree.digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rep, err := s.repository(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	w, err := rep.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.upload(t.Context(), w, tree, files); err != nil {
		t.Fatal(err)
	}
	if err := w.commit(t.Context(), s.marker(), s.sums()); err != nil {
		t.Fatal(err)
	}
	// Here it ends.
	again := open(t, dir)
	if has, err := again.Has(t.Context(), key); has || err != nil {
		t.Errorf("Has = %v, %v, want false: no key was added", has, err)
	}
	if got := mustPut(t, again, src); got != key {
		t.Errorf("Put = %s, want %s", got, key)
	}
	checkKept(t, dir, []schema.Key{key})
	if err := w.close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A key that was being written when the power went stands for nothing, and the
// keys after it are not lost with it.
func TestTornKey(t *testing.T) {
	t.Parallel()
	x := &keyIndex{dir: filepath.Join(t.TempDir(), "keys")}
	key := func(i int) schema.Key { return schema.Key(fmt.Sprintf("sha256:ab%062d", i)) }
	rec := record{kind: kindFile, size: 1, handle: "k1"}
	if err := x.add(line{key(0), rec}); err != nil {
		t.Fatal(err)
	}
	whole := appendRecord(nil, key(1), rec)
	for cut := 1; cut < len(whole); cut++ {
		for _, zeros := range []int{0, 20} {
			torn := append([]byte(nil), whole[:cut]...)
			torn = append(torn, make([]byte, zeros)...)
			f, err := os.OpenFile(filepath.Join(x.dir, "ab"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(torn); err != nil {
				t.Fatal(err)
			}
			f.Close()
			fresh := &keyIndex{dir: x.dir}
			if _, ok, err := fresh.get(key(1)); ok || err != nil {
				t.Fatalf("cut at %d: a torn key is there (%v)", cut, err)
			}
			if err := fresh.add(line{key(cut + 1), rec}); err != nil {
				t.Fatal(err)
			}
			for _, want := range []int{0, cut + 1} {
				if _, ok, err := fresh.get(key(want)); !ok || err != nil {
					t.Fatalf("cut at %d: key %d is lost (%v)", cut, want, err)
				}
			}
		}
	}
	bad, err := (&keyIndex{dir: x.dir}).each(func(schema.Key, record) {})
	if err != nil {
		t.Fatal(err)
	}
	if bad != 0 {
		t.Errorf("%d damaged lines, want none: what was torn was never there", bad)
	}
}
