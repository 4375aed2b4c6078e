package content

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/retrace-ledger/retrace/schema"
)

func writeOldListing(t *testing.T, w *session, members []member) string {
	t.Helper()
	handle, err := w.write(t.Context(), bytesOfFiles, 0, func(dst io.Writer) error { return json.NewEncoder(dst).Encode(members) })
	if err != nil {
		t.Fatal(err)
	}
	return handle
}

func nothingNeeded(schema.Key) (bool, error) { return false, nil }

// noise is n bytes that nothing compresses.
func noise(n int) string {
	b := make([]byte, n)
	crand.Read(b)
	return string(b)
}

func sizeOf(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is released goes from the disk, and what somebody has kept stays: other
// holders, other ledgers, people, files in other folders, and what is needed.
func TestCollect(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	a, b := openFor(t, dir, "ledger a", ""), openFor(t, dir, "ledger b", "")
	shared, needed := noise(1<<16), noise(1<<16)
	big := func(i int) map[string]string {
		return map[string]string{"in/shared": shared, "own": noise(1 << 20), "needed": needed + fmt.Sprint(i)}
	}
	gone := snapshot(t, a, write(t, big(0)), "s")
	byHand := write(t, big(1))
	hand := snapshot(t, a, byHand, "s")
	if got := mustPut(t, b, byHand); got != hand {
		t.Fatalf("Put = %s, want %s", got, hand)
	}
	theirs := write(t, big(2))
	both := snapshot(t, a, theirs, "s")
	if got := snapshot(t, b, theirs, "s"); got != both {
		t.Fatalf("Snapshot = %s, want %s", got, both)
	}
	stays := snapshot(t, a, write(t, big(3)), "s")
	single := mustPut(t, a, filepath.Join(write(t, map[string]string{"f": shared}), "f"))
	want := schema.BytesKey([]byte(needed + "0"))

	if err := a.Release(t.Context(), "other", []schema.Key{stays}); err != nil {
		t.Fatal(err)
	}
	if err := a.Release(t.Context(), "s", []schema.Key{gone, hand, both}); err != nil {
		t.Fatal(err)
	}
	before := sizeOf(t, dir)
	c, err := a.Collect(t.Context(), func(k schema.Key) (bool, error) { return k == want, nil })
	if err != nil {
		t.Fatal(err)
	}
	if c.Folders != 1 || c.Files != 1 || c.Needed != 1 || c.Before-c.After < 1<<20 {
		t.Errorf("Collect = %+v, want one folder and one file gone, and a megabyte with them", c)
	}
	if after := sizeOf(t, dir); before-after < 1<<20 {
		t.Errorf("the store has %d bytes, %d before: want a megabyte less", after, before)
	}
	if has, err := b.Has(t.Context(), gone); has || err != nil {
		t.Errorf("Has(released) = %v, %v, want false", has, err)
	}
	if h, err := a.Holding(t.Context(), both, "s"); err != nil || h != (Holding{Kept: true, Others: true}) {
		t.Errorf("Holding = %+v, %v, want what another ledger has kept", h, err)
	}
	checkKept(t, dir, []schema.Key{hand, both, stays, single, want})

	// What is taken again after it went is kept again, by a store that was open
	// all the while, too.
	if got := snapshot(t, b, theirs, "s"); got != both {
		t.Errorf("Snapshot = %s, want %s", got, both)
	}
	if err := b.Release(t.Context(), "s", []schema.Key{both}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Collect(t.Context(), nothingNeeded); err != nil {
		t.Fatal(err)
	}
	if has, err := b.Has(t.Context(), both); has || err != nil {
		t.Errorf("Has = %v, %v, want false: all let it go", has, err)
	}
	if got := snapshot(t, b, theirs, "s"); got != both {
		t.Errorf("Snapshot = %s, want %s", got, both)
	}
	checkKept(t, dir, []schema.Key{hand, both, stays, single, want})
}

// Wherever a collection ends, what is kept stays whole, and the next one frees
// what the first should have.
func TestCollectCrash(t *testing.T) {
	t.Parallel()
	const steps = 11 // as many as Collect has, and one more
	for step := range steps {
		if testing.Short() && step%4 != 0 {
			continue
		}
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			if ended := crashIn(t, step); ended != (step < steps-1) {
				t.Errorf("a crash in step %d ended the collection: %v; are there %d steps still?", step, ended, steps-1)
			}
		})
	}
}

// crashIn ends a collection after a step, and says whether it did.
func crashIn(t *testing.T, step int) bool {
	dir := filepath.Join(t.TempDir(), "store")
	s := openFor(t, dir, "a", "")
	files := map[string]string{"same": noise(1 << 18), "own": noise(1 << 20)}
	src := write(t, files)
	gone := snapshot(t, s, src, "s")
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("own", noise(1<<20))
	kept := snapshot(t, s, src, "s")
	if err := s.Release(t.Context(), "s", []schema.Key{gone}); err != nil {
		t.Fatal(err)
	}
	at, crash := 0, errors.New("here it ends")
	s.step = func() error {
		if at++; at > step {
			return crash
		}
		return nil
	}
	_, err := s.Collect(t.Context(), nothingNeeded)
	if err != nil && !errors.Is(err, crash) {
		t.Fatal(err)
	}
	checkKept(t, dir, []schema.Key{kept})
	// Another process goes on: it keeps what was half away, and collects.
	other := openFor(t, dir, "a", "")
	put("own", files["own"])
	if got := snapshot(t, other, src, "s"); got != gone {
		t.Fatalf("Snapshot = %s, want %s", got, gone)
	}
	checkKept(t, dir, []schema.Key{kept, gone})
	if err := other.Release(t.Context(), "s", []schema.Key{gone}); err != nil {
		t.Fatal(err)
	}
	if _, cerr := other.Collect(t.Context(), nothingNeeded); cerr != nil {
		t.Fatalf("step %d: Collect after a crash: %v", step, cerr)
	}
	checkKept(t, dir, []schema.Key{kept})
	if size := sizeOf(t, dir); size > 3<<19 {
		t.Errorf("step %d: %d bytes are left of a store that keeps 1.25 MB", step, size)
	}
	return err != nil
}

// What was put for good stays so when another put of the same, which began
// before, ends after it.
func TestPutTwice(t *testing.T) {
	t.Parallel()
	x := &keyIndex{dir: filepath.Join(t.TempDir(), "keys")}
	folder, file := schema.Key(schema.RetraceTree1+":"+fmt.Sprintf("%064d", 1)), schema.Key(fmt.Sprintf("sha256:%064d", 1))
	for _, lines := range [][]line{
		{{folder, record{kind: kindFolder, handle: "k1"}}, {file, record{kind: kindFile, handle: "a"}}},
		{{folder, record{kind: kindHeld, handle: "k1"}}, {file, record{kind: kindMember, handle: "a"}}},
	} {
		if err := x.add(lines...); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []schema.Key{folder, file} {
		if r, ok, err := x.get(k); !ok || !r.good() || err != nil {
			t.Errorf("%s is recorded as %c, %v: it was to be kept for good", k, r.kind, err)
		}
	}
}

// Two ledgers take snapshots into one store while a third collects; what each
// has kept is there, and what they share is kept once.
func TestCollectBesideWriters(t *testing.T) {
	t.Parallel()
	rounds := 6
	if testing.Short() {
		rounds = 3
	}
	dir := filepath.Join(t.TempDir(), "store")
	shared := noise(1 << 20)
	var kept [2]schema.Key
	var writers, all errgroup.Group
	for n := range kept {
		src := write(t, map[string]string{"shared": shared, "own": "0"})
		writers.Go(func() error {
			s, err := Open(t.Context(), dir, &Options{Owner: fmt.Sprint("ledger ", n)})
			if err != nil {
				return err
			}
			defer s.Close(context.Background())
			for i := range rounds {
				if err := os.WriteFile(filepath.Join(src, "own"), bytes.Repeat(fmt.Appendf(nil, "%d %d ", n, i), 5000), 0o644); err != nil {
					return err
				}
				k, _, err := s.Snapshot(t.Context(), src, "s", false)
				if err != nil {
					return err
				}
				if kept[n] != "" {
					if err := s.Release(t.Context(), "s", []schema.Key{kept[n]}); err != nil {
						return err
					}
				}
				kept[n] = k
				at := filepath.Join(t.TempDir(), "x")
				if err := s.Fetch(t.Context(), k, at); err != nil {
					return err
				}
			}
			return nil
		})
	}
	done := make(chan bool)
	all.Go(func() error {
		s, err := Open(t.Context(), dir, &Options{Owner: "collector"})
		if err != nil {
			return err
		}
		defer s.Close(context.Background())
		for {
			if _, err := s.Collect(t.Context(), nothingNeeded); err != nil {
				return err
			}
			select {
			case <-done:
				return nil
			default:
			}
		}
	})
	err := writers.Wait()
	close(done)
	if err := errors.Join(err, all.Wait()); err != nil {
		t.Fatal(err)
	}
	checkKept(t, dir, kept[:])
	if size := sizeOf(t, filepath.Join(dir, "blobs")); size > 3<<19 {
		t.Errorf("the store has %d bytes of a megabyte that both share: it is not kept once", size)
	}
}
