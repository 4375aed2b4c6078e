package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/engine"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

var long = flag.Bool("long", false, "damage every 64th of each file, not every 4th; let more system calls fail; hold closing to two seconds")

// findings are what Fsck says about dir, an error included.
func findings(t testing.TB, dir string, w *ledgertest.World) []string {
	t.Helper()
	var out []string
	for f, err := range ledger.Fsck(context.Background(), dir, w.Verifier, nil) {
		if err != nil {
			out = append(out, "error: "+err.Error())
			break
		}
		out = append(out, f.Where+": "+f.Problem)
	}
	return out
}

// keep copies the closed ledger of w.
func keep(t *testing.T, w *ledgertest.World) string {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := ledgertest.Copy(t, w.Dir())
	reopen(t, w)
	return dir
}

// replace puts one file or folder of a ledger in the place of another's.
func replace(t *testing.T, dir, name, from string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// sibling is another ledger with the keys and the genesis of w.
func sibling(t *testing.T, w *ledgertest.World, n int) string {
	t.Helper()
	other := &ledgertest.World{Observer: w.Observer, Log: w.Log, Signer: w.Signer, Verifier: w.Verifier}
	dir := t.TempDir()
	if err := ledger.Create(dir, w.Signer, w.Genesis(t)); err != nil {
		t.Fatal(err)
	}
	var err error
	if other.Ledger, err = ledger.Open(dir, w.Signer, nil); err != nil {
		t.Fatal(err)
	}
	fill(t, other, n, 3)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpenShorterThanSigned(t *testing.T) {
	w := filled(t, 5, 5)
	before := keep(t, w)
	fill(t, w, 10, 5)
	after := keep(t, w)
	replace(t, after, "store", before)
	if _, err := ledger.Open(after, w.Signer, nil); !errors.Is(err, ledger.ErrShort) {
		t.Errorf("Open: %v", err)
	}
	if _, err := ledger.OpenReadOnly(after, w.Verifier, nil); !errors.Is(err, ledger.ErrShort) {
		t.Errorf("OpenReadOnly: %v", err)
	}
	if got := findings(t, after, w); len(got) == 0 || !strings.HasPrefix(got[0], "entry 5: missing") {
		t.Errorf("Fsck: %q", got)
	}
}

// TestOpenWithoutState opens a store that is empty: shorter than anything.
func TestOpenWithoutState(t *testing.T) {
	w := filled(t, 5, 5)
	dir := keep(t, w)
	replace(t, dir, "store", emptyStore(t))
	if _, err := ledger.Open(dir, w.Signer, nil); !errors.Is(err, ledger.ErrShort) {
		t.Errorf("Open: %v", err)
	}
	if got := findings(t, dir, w); len(got) == 0 || !strings.HasPrefix(got[0], "entry 0: missing") {
		t.Errorf("Fsck: %q", got)
	}
}

func emptyStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestOpenFork opens stores beside checkpoints of another history: of the same
// size, and of a smaller one.
func TestOpenFork(t *testing.T) {
	for _, size := range []int{10, 5} {
		w := filled(t, 10, 3)
		dir := keep(t, w)
		replace(t, dir, "checkpoint", sibling(t, w, size))
		for name, err := range map[string]error{
			"Open":         second(ledger.Open(dir, w.Signer, nil)),
			"OpenReadOnly": second(ledger.OpenReadOnly(dir, w.Verifier, nil)),
		} {
			var fork *ledger.ForkError
			if !errors.As(err, &fork) {
				t.Fatalf("%s with the checkpoint of another history at size %d: %v", name, size, err)
			}
			a, errA := verify.OpenCheckpoint(fork.Old, w.Verifier)
			b, errB := verify.OpenCheckpoint(fork.New, w.Verifier)
			if errA != nil || errB != nil || a.Size > int64(size) || b.Size != 10 || a.Root == b.Root {
				t.Errorf("%s: the notes are of sizes %d (%v) and %d (%v)", name, a.Size, errA, b.Size, errB)
			}
		}
		if got := findings(t, dir, w); len(got) == 0 || !strings.HasPrefix(got[0], "checkpoint of size") {
			t.Errorf("Fsck with the checkpoint of another history at size %d: %q", size, got)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestOpenLongerThanSigned opens a ledger whose process ended between its
// commit and the checkpoint file.
func TestOpenLongerThanSigned(t *testing.T) {
	w := filled(t, 5, 2)
	before := keep(t, w)
	fill(t, w, 300, 100)
	after := keep(t, w)
	replace(t, after, "checkpoint", before)

	r, err := ledger.OpenReadOnly(after, w.Verifier, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size() != 5 {
		t.Errorf("OpenReadOnly answers from size %d, want the signed 5", r.Size())
	}
	if _, err := r.Entry(context.Background(), 5); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("OpenReadOnly has an entry beyond the signed size: %v", err)
	}
	e, err := r.Entry(context.Background(), 4)
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Proof(context.Background(), 4)
	if err != nil {
		t.Fatal(err)
	}
	if cp, err := p.Verify(e.Commitment, w.Verifier); err != nil || cp.Size != 5 {
		t.Errorf("a proof under size %d: %v", cp.Size, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	l, err := ledger.Open(after, w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	if l.Size() != 300 {
		t.Errorf("Open answers from size %d, want the committed 300", l.Size())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r, err = ledger.OpenReadOnly(after, w.Verifier, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size() != 300 {
		t.Errorf("after Open, size %d is signed, want 300", r.Size())
	}
	r.Close()
	ledgertest.Check(t, after, w.Verifier)
}

func TestOpenCheckpointFile(t *testing.T) {
	w := filled(t, 4, 1) // commits 0 to 3: the newest checkpoint is in slot 1
	dir := keep(t, w)
	whole, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	newest := ledger.SlotSize
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		want   string // of the error; empty if the ledger opens
	}{
		{"torn newest", func(b []byte) []byte { clear(b[newest+100:]); return b }, ""},
		{"blank newest", func(b []byte) []byte { clear(b[newest:]); return b }, ""},
		{"flipped newest", func(b []byte) []byte { b[newest+60] ^= 1; return b }, ""},
		{"flipped padding", func(b []byte) []byte { b[newest+4000] ^= 1; return b }, ""},
		{"torn oldest", func(b []byte) []byte { clear(b[100:newest]); return b }, ""},
		{"shortened", func(b []byte) []byte { return b[:newest+50] }, ""},
		{"both flipped", func(b []byte) []byte { b[60] ^= 1; b[newest+60] ^= 1; return b }, "no slot holds a checkpoint"},
		{"both blank", func(b []byte) []byte { clear(b); return b }, "no slot holds a checkpoint"},
		{"empty", func(b []byte) []byte { return nil }, "no slot holds a checkpoint"},
		{"of another key", func([]byte) []byte { return foreign(t) }, "carries no signature of that key"},
	} {
		dir := ledgertest.Copy(t, dir)
		if err := os.WriteFile(filepath.Join(dir, "checkpoint"), c.change(bytes.Clone(whole)), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := findings(t, dir, w); len(got) == 0 {
			t.Errorf("%s: Fsck finds nothing", c.name)
		}
		l, err := ledger.Open(dir, w.Signer, nil)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want an error that says %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if l.Size() != 4 {
			t.Errorf("%s: size %d, want 4", c.name, l.Size())
		}
		mustAppend(t, l, batch(claims(t, "after", "that")...))
		mustAppend(t, l, batch(claims(t, "and once more")...))
		l.Close()
		ledgertest.Check(t, dir, w.Verifier)
	}
}

// foreign is the checkpoint file of a ledger with the same origin and another
// key.
func foreign(t *testing.T) []byte {
	t.Helper()
	w := filled(t, 4, 1)
	data, err := os.ReadFile(filepath.Join(w.Dir(), "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOpenNothing(t *testing.T) {
	w := ledgertest.NewKeys(t)
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		if _, err := ledger.Open(dir, w.Signer, nil); !errors.Is(err, ledger.ErrNoLedger) {
			t.Errorf("Open of a directory without a ledger: %v", err)
		}
	}
	l := ledgertest.New(t)
	dir := keep(t, l)
	for _, c := range []struct{ file, want string }{
		{"checkpoint", "the file is missing beside a store"},
		{"dedup.key", "dedup.key: missing"},
	} {
		dir := ledgertest.Copy(t, dir)
		if err := os.Remove(filepath.Join(dir, c.file)); err != nil {
			t.Fatal(err)
		}
		_, err := ledger.Open(dir, l.Signer, nil)
		var d *ledger.DamageError
		if !errors.As(err, &d) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open without %s: %v", c.file, err)
		}
	}
	if _, err := ledger.Open(dir, w.Signer, nil); err == nil || !strings.Contains(err.Error(), "carries no signature of that key") {
		t.Errorf("Open with another key: %v", err)
	}
}

// rebuild copies the store of dir into a new one, with each value as change
// returns it, or without it if change returns nil.
func rebuild(t *testing.T, dir string, change func(key, value []byte) []byte) string {
	t.Helper()
	from, err := engine.OpenBadger(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	var puts []engine.Put
	err = from.View(func(s engine.Snapshot) error {
		for item, err := range s.Ascend([]byte{0}, []byte{0xff}) {
			if err != nil {
				return err
			}
			key := bytes.Clone(item.Key())
			if err := item.Value(func(value []byte) error {
				if v := change(key, bytes.Clone(value)); v != nil {
					puts = append(puts, engine.Put{Key: key, Value: v})
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, from.Close()); err != nil {
		t.Fatal(err)
	}
	out := ledgertest.Copy(t, dir)
	replace(t, out, "store", emptyStore(t))
	to, err := engine.OpenBadger(filepath.Join(out, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(to.Commit(puts), to.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// audit opens dir and reads everything. It returns how damage showed, or "" if
// everything is as in want. Other entries, or fewer, without a word fail the
// test.
func audit(t *testing.T, dir string, w *ledgertest.World, want []held) string {
	t.Helper()
	l, err := ledger.Open(ledgertest.Copy(t, dir), w.Signer, nil)
	if err != nil {
		return "open: " + err.Error()
	}
	defer l.Close()
	n := 0
	for e, err := range l.Entries(context.Background(), 0) {
		if err != nil {
			return "read: " + err.Error()
		}
		if n >= len(want) || heldAs(e) != want[n] || e.Index != int64(n) {
			t.Errorf("entry %d is another one, and nobody says so", n)
			return "silence"
		}
		n++
	}
	if n != len(want) {
		t.Errorf("%d entries of %d, and nobody says so", n, len(want))
		return "silence"
	}
	return ""
}

// held is what a ledger holds of an entry.
type held struct {
	commitment [32]byte
	state      schema.State
}

func heldAs(e schema.Entry) held { return held{e.Commitment, e.State} }

func heldBy(t *testing.T, l *ledger.Ledger) (out []held) {
	t.Helper()
	for e, err := range l.Entries(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, heldAs(e))
	}
	return out
}

func commitments(t *testing.T, l *ledger.Ledger) (out [][32]byte) {
	t.Helper()
	for e, err := range l.Entries(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Commitment)
	}
	return out
}

// TestMissingAndChangedKeys removes and changes each kind of key of the store.
func TestMissingAndChangedKeys(t *testing.T) {
	t.Parallel()
	w := filled(t, 600, 200)
	mustAppend(t, w.Ledger, batchWithCursor())
	w.MustErase(t, 17)
	want := heldBy(t, w.Ledger)
	dir := keep(t, w)
	kinds := map[string][][]byte{}
	same := rebuild(t, dir, func(key, value []byte) []byte {
		kinds[string(key[:1])] = append(kinds[string(key[:1])], key)
		return value
	})
	if got := audit(t, same, w, want); got != "" {
		t.Fatalf("a store that was copied key by key: %s", got)
	}
	ledgertest.Check(t, same, w.Verifier)
	for kind, keys := range kinds {
		for _, key := range [][]byte{keys[0], keys[len(keys)-1]} {
			for name, change := range map[string]func([]byte) []byte{
				"removed":   func([]byte) []byte { return nil },
				"flipped":   func(v []byte) []byte { v[len(v)/2] ^= 4; return v },
				"shortened": func(v []byte) []byte { return v[:len(v)-1] },
				"emptied":   func(v []byte) []byte { return []byte{} },
			} {
				if kind == "k" && name == "removed" {
					continue // a source that was never read; it is read again, and nothing is recorded twice
				}
				changed := rebuild(t, dir, func(k, v []byte) []byte {
					if bytes.Equal(k, key) {
						return change(v)
					}
					return v
				})
				audit(t, changed, w, want)
				if got := findings(t, changed, w); len(got) == 0 {
					t.Errorf("%q %s: Fsck finds nothing", key, name)
				}
			}
		}
	}
}

// TestMissingIsNotNotFound reads what is gone from the middle of a ledger.
func TestMissingIsNotNotFound(t *testing.T) {
	w := filled(t, 600, 200)
	dir := rebuild(t, keep(t, w), func(key, value []byte) []byte {
		if string(key[:2]) == "b/" && key[len(key)-1] == 201 || string(key[:2]) == "t/" {
			return nil
		}
		return value
	})
	l, err := ledger.Open(dir, w.Signer, nil)
	var d *ledger.DamageError
	if err == nil {
		_, err = l.Entry(context.Background(), 300)
		l.Close()
	}
	if !errors.As(err, &d) || errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("reading a missing entry: %v", err)
	}
}

// TestRot flips bytes in each file of a ledger, of one that is open, whose
// newest entries are in write-ahead logs, and of one that is closed, whose
// entries are in tables. Either everything is as it was, or somebody says so.
func TestRot(t *testing.T) {
	t.Parallel()
	parts := 4
	if *long {
		parts = 64
	}
	w := ledgertest.New(t)
	for _, n := range []int{40, 300, 320, 321} { // segments in tables and in the value log
		fill(t, w, n, 300)
	}
	mustAppend(t, w.Ledger, batchWithCursor())
	want := heldBy(t, w.Ledger)
	open := ledgertest.Copy(t, w.Dir())
	closed := keep(t, w)
	for name, dir := range map[string]string{"open": open, "closed": closed} {
		t.Run(name, func(t *testing.T) {
			if got := audit(t, dir, w, want); got != "" {
				t.Fatalf("an intact copy: %s", got)
			}
			for _, file := range files(t, dir) {
				t.Run(filepath.Base(file), func(t *testing.T) {
					t.Parallel()
					rot(t, dir, file, parts, w, want)
				})
			}
		})
	}
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.ToLower(d.Name()) != "lock" {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rot flips a byte at each of so many parts of a file, each time in a new copy,
// and with -long it also clears a sector there.
func rot(t *testing.T, dir, file string, parts int, w *ledgertest.World, want []held) {
	used := usedBytes(t, filepath.Join(dir, file))
	var places []int64
	for i := range parts {
		places = append(places, used*int64(i)/int64(parts))
	}
	told := 0
	places = slices.Compact(places)
	harms := []func(*testing.T, string, int64){flip}
	if *long {
		harms = append(harms, zero)
	}
	for i := range len(places) * len(harms) {
		at := places[i/len(harms)]
		damaged := ledgertest.Copy(t, dir)
		harms[i%len(harms)](t, filepath.Join(damaged, file), at)
		shown := audit(t, damaged, w, want)
		found := findings(t, damaged, w)
		if shown != "" && len(found) == 0 {
			t.Errorf("%s at %d: %s, and Fsck finds nothing", file, at, shown)
		}
		if len(found) > 0 {
			told++
		}
	}
	t.Logf("%s: Fsck tells %d of %d", file, told, len(places)*len(harms))
}

// usedBytes is the length of a file without the zeros at its end.
func usedBytes(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	used, at := int64(0), int64(0)
	for {
		n, err := f.Read(block)
		if used0 := len(bytes.TrimRight(block[:n], "\x00")); used0 > 0 {
			used = at + int64(used0)
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return used
		}
		if err != nil {
			t.Fatal(err)
		}
		if at > used+8<<20 {
			return used
		}
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// zero clears a sector from at on, as far as the file goes.
func zero(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, max(0, min(512, info.Size()-at))), at); err != nil {
		t.Fatal(err)
	}
}

func TestLocked(t *testing.T) {
	w := ledgertest.New(t)
	for name, err := range map[string]error{
		"Open":         second(ledger.Open(w.Dir(), w.Signer, nil)),
		"OpenReadOnly": second(ledger.OpenReadOnly(w.Dir(), w.Verifier, nil)),
		"Create":       ledger.Create(w.Dir(), w.Signer, w.Genesis(t)),
	} {
		if !errors.Is(err, ledger.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
			t.Errorf("%s of a ledger that is open: %v", name, err)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	w := ledgertest.New(t)
	w.Close()
	if err := ledger.Create(w.Dir(), w.Signer, w.Genesis(t)); !errors.Is(err, ledger.ErrExists) {
		t.Errorf("Create where a ledger is: %v", err)
	}
	other := ledgertest.NewKeys(t)
	dir := t.TempDir()
	for name, env := range map[string]error{
		"the genesis of another key": ledger.Create(dir, w.Signer, other.Genesis(t)),
		"no genesis":                 ledger.Create(dir, w.Signer, ledgertest.Claim(t, "x")),
	} {
		if env == nil {
			t.Errorf("Create with %s succeeded", name)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("a refused Create leaves %v (%v)", entries, err)
	}
}

func TestReadOnly(t *testing.T) {
	w := filled(t, 300, 50)
	dir := keep(t, w)
	if err := os.Remove(filepath.Join(dir, "dedup.key")); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.OpenReadOnly(dir, w.Verifier, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Append(context.Background(), batch(claims(t, "x")...)); !errors.Is(err, ledger.ErrReadOnly) {
		t.Errorf("Append: %v", err)
	}
	if l.Size() != 300 || l.Origin() != ledgertest.Origin || l.Observer() != w.Observer.ID() || l.Dir() != dir {
		t.Errorf("size %d, origin %s, observer %s, dir %s", l.Size(), l.Origin(), l.Observer(), l.Dir())
	}
	if diff := len(commitments(t, l)); diff != 300 {
		t.Errorf("%d entries, want 300", diff)
	}
	l.Close()
	if _, err := l.Entry(context.Background(), 0); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("Entry of a closed ledger: %v", err)
	}
	ledgertest.Check(t, dir, w.Verifier)
}
