package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retrace-ledger/retrace/ledger/engine"
)

// Test runs the suite. open opens the engine in dir, which is an existing
// directory, empty at first.
func Test(t *testing.T, open func(dir string) (engine.Engine, error)) {
	for name, test := range map[string]func(*testing.T, *world){
		"Get":        testGet,
		"Remove":     testRemove,
		"Reopen":     testReopen,
		"Ascend":     testAscend,
		"Descend":    testDescend,
		"Snapshot":   testSnapshot,
		"LargeBatch": testLargeBatch,
		"LargeValue": testLargeValue,
		"Errors":     testErrors,
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{dir: t.TempDir(), open: open}
			w.reopen(t)
			t.Cleanup(func() { w.close(t) })
			test(t, w)
		})
	}
}

// world is an engine that can be opened again.
type world struct {
	dir  string
	open func(string) (engine.Engine, error)
	engine.Engine
}

func (w *world) reopen(t *testing.T) {
	t.Helper()
	w.close(t)
	var err error
	if w.Engine, err = w.open(w.dir); err != nil {
		t.Fatal(err)
	}
}

func (w *world) close(t *testing.T) {
	t.Helper()
	if w.Engine == nil {
		return
	}
	if err := w.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	w.Engine = nil
}

// put commits keys and values given in turn.
func (w *world) put(t *testing.T, pairs ...string) {
	t.Helper()
	var puts []engine.Put
	for i := 0; i < len(pairs); i += 2 {
		puts = append(puts, engine.Put{Key: []byte(pairs[i]), Value: []byte(pairs[i+1])})
	}
	if err := w.Commit(puts); err != nil {
		t.Fatal(err)
	}
}

// testRemove removes a key in the commit that adds another.
func testRemove(t *testing.T, w *world) {
	w.put(t, "a", "1", "b", "", "c", "3")
	if err := w.Commit([]engine.Put{{Key: []byte("a")}, {Key: []byte("d"), Value: []byte("4")}, {Key: []byte("never there")}}); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"open", "reopened"} {
		err := w.View(func(s engine.Snapshot) error {
			for key, want := range map[string]string{"a": "-", "b": "", "c": "3", "d": "4"} {
				if got := get(t, s, key); got != want {
					t.Errorf("%s: %q is %q, want %q", state, key, got, want)
				}
			}
			var keys []string
			for item, err := range s.Ascend([]byte("a"), []byte("z")) {
				if err != nil {
					return err
				}
				keys = append(keys, string(item.Key()))
			}
			if diff := cmp.Diff([]string{"b", "c", "d"}, keys); diff != "" {
				t.Errorf("%s: keys: %s", state, diff)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.reopen(t)
	}
}

// get returns the value under key, and "-" if there is none.
func get(t *testing.T, s engine.Snapshot, key string) string {
	t.Helper()
	var out string
	err := s.Get([]byte(key), func(v []byte) error {
		out = string(v)
		return nil
	})
	if errors.Is(err, engine.ErrNotFound) {
		return "-"
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) view(t *testing.T, fn func(engine.Snapshot)) {
	t.Helper()
	err := w.View(func(s engine.Snapshot) error {
		fn(s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) want(t *testing.T, key, want string) {
	t.Helper()
	w.view(t, func(s engine.Snapshot) {
		if got := get(t, s, key); got != want {
			t.Errorf("Get(%q) = %q, want %q", key, got, want)
		}
	})
}

func testGet(t *testing.T, w *world) {
	w.want(t, "a", "-")
	w.put(t, "a", "1", "b", "")
	w.put(t, "a", "2")
	w.want(t, "a", "2")
	w.want(t, "b", "")
}

func testReopen(t *testing.T, w *world) {
	w.put(t, "a", "1")
	w.reopen(t)
	w.want(t, "a", "1")
	w.put(t, "a", "2")
	w.reopen(t)
	w.want(t, "a", "2")
	if err := w.VerifyChecksums(context.Background()); err != nil {
		t.Errorf("VerifyChecksums() = %v", err)
	}
}

// keys collects what an iteration yields as "key=value", up to limit.
func keys(t *testing.T, it func(func(engine.Item, error) bool), limit int) []string {
	t.Helper()
	var out []string
	for item, err := range it {
		if err != nil {
			t.Fatal(err)
		}
		key := string(item.Key())
		if err := item.Value(func(v []byte) error {
			out = append(out, key+"="+string(v))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if len(out) == limit {
			break
		}
	}
	return out
}

var letters = []string{"a/\x00", "0", "a/\x01", "1", "a/\x01\x00", "2", "a/\xff", "3", "b", "4", "b/\x01", "5"}

func testAscend(t *testing.T, w *world) {
	w.put(t, letters...)
	w.view(t, func(s engine.Snapshot) {
		for _, c := range []struct {
			low, high string
			limit     int
			want      []string
		}{
			{"a/", "a0", -1, []string{"a/\x00=0", "a/\x01=1", "a/\x01\x00=2", "a/\xff=3"}},
			{"a/\x01", "b", -1, []string{"a/\x01=1", "a/\x01\x00=2", "a/\xff=3"}},
			{"a/\x01", "a/\x01", -1, nil},
			{"a/", "a0", 2, []string{"a/\x00=0", "a/\x01=1"}},
			{"c", "d", -1, nil},
		} {
			got := keys(t, s.Ascend([]byte(c.low), []byte(c.high)), c.limit)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Ascend(%q, %q): %s", c.low, c.high, diff)
			}
		}
	})
}

func testDescend(t *testing.T, w *world) {
	w.put(t, letters...)
	w.view(t, func(s engine.Snapshot) {
		for _, c := range []struct {
			high, low string
			limit     int
			want      []string
		}{
			{"a/\xff", "a/\x00", -1, []string{"a/\xff=3", "a/\x01\x00=2", "a/\x01=1", "a/\x00=0"}},
			{"a/\x01\x01", "a/\x01", -1, []string{"a/\x01\x00=2", "a/\x01=1"}},
			{"a/\x01\xff", "a/\x00", 1, []string{"a/\x01\x00=2"}},
			{"a/", "a/", -1, nil},
		} {
			got := keys(t, s.Descend([]byte(c.high), []byte(c.low)), c.limit)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Descend(%q, %q): %s", c.high, c.low, diff)
			}
		}
	})
}

func testSnapshot(t *testing.T, w *world) {
	w.put(t, "a", "1")
	w.view(t, func(s engine.Snapshot) {
		w.put(t, "a", "2", "b", "2")
		if a, b := get(t, s, "a"), get(t, s, "b"); a != "1" || b != "-" {
			t.Errorf("the snapshot changed: a is %q, b is %q", a, b)
		}
	})
	w.want(t, "a", "2")
}

// testLargeBatch commits the largest batch that the ledger makes: 8 MiB of
// envelopes in segments, with a key for each of 4,096 entries, tiles and
// cursors.
func testLargeBatch(t *testing.T, w *world) {
	var puts []engine.Put
	add := func(prefix string, n, size int) {
		for i := range n {
			puts = append(puts, engine.Put{Key: fmt.Appendf(nil, "%s%032d", prefix, i), Value: bytes.Repeat([]byte{byte(i)}, size)})
		}
	}
	add("d/", 4096, 8)
	add("t/", 18, 8192)
	add("e/", 17, 8704)
	add("b/", 17, 512<<10)
	add("s/", 127, 60<<10) // segments just below what is kept out of the tables
	if err := w.Commit(puts); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	w.view(t, func(s engine.Snapshot) {
		for _, p := range puts {
			if got := get(t, s, string(p.Key)); got != string(p.Value) {
				t.Fatalf("Get(%q) has %d bytes, want %d", p.Key, len(got), len(p.Value))
			}
		}
	})
}

func testLargeValue(t *testing.T, w *world) {
	value := string(bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16))
	w.put(t, "a", value, "b", value)
	w.reopen(t)
	w.want(t, "a", value)
	w.want(t, "b", value)
}

func testErrors(t *testing.T, w *world) {
	w.put(t, "a", "1")
	want := errors.New("from fn")
	err := w.View(func(s engine.Snapshot) error {
		return s.Get([]byte("a"), func([]byte) error { return want })
	})
	if !errors.Is(err, want) {
		t.Errorf("View returned %v, want what fn returned", err)
	}
	if err := w.Commit(nil); err != nil {
		t.Errorf("Commit(nil) = %v", err)
	}
}
