package content

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// openFor opens the store in dir as the ledger owner, with a cache.
func openFor(t testing.TB, dir, owner, cache string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir, &Options{Owner: owner, Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func snapshot(t testing.TB, s *Store, dir, holder string) schema.Key {
	t.Helper()
	key, _, err := s.Snapshot(t.Context(), dir, holder, false)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// age has what is known of dir count as read long after the files in it were
// last changed, so that it is relied on at once.
func age(t testing.TB, s *Store, dir string) {
	t.Helper()
	k := openKnown(s.cache, dir)
	files, _, err := readAll(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, sum := range files {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		k.add(name, info, sum, time.Now().Add(settled+time.Second))
	}
	if err := k.save(); err != nil {
		t.Fatal(err)
	}
}

func readAll(t testing.TB, dir string) (map[string]string, schema.Key, error) {
	key, files, err := Digest(t.Context(), dir)
	sums := map[string]string{}
	for _, f := range files {
		if f.Type == typeFile {
			sums[f.Path] = f.SHA256
		}
	}
	return sums, key, err
}

// Whatever happens to a folder, a snapshot that reads only what changed gives
// the digest that reading everything gives.
func TestSnapshotIncremental(t *testing.T) {
	t.Parallel()
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	dir, cache := t.TempDir(), t.TempDir()
	s := openFor(t, filepath.Join(t.TempDir(), "store"), "a", cache)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 30 {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprint("d", i%4)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("d", i%4), fmt.Sprint(i)), fmt.Appendf(nil, "%06d", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files := func() []string {
		all, err := filepath.Glob(filepath.Join(dir, "d*", "*"))
		if err != nil || len(all) == 0 {
			t.Fatal(all, err)
		}
		return all
	}
	pick := func() string { all := files(); return all[random.IntN(len(all))] }
	changes := map[string]func() error{
		"same size and time": func() error {
			name := pick()
			info, err := os.Stat(name)
			if err != nil {
				return err
			}
			return errors.Join(os.WriteFile(name, fmt.Appendf(nil, "%06d", random.IntN(1e6)), 0o644), os.Chtimes(name, info.ModTime(), info.ModTime()))
		},
		"rename over": func() error {
			a, b := pick(), pick()
			info, err := os.Stat(b)
			if err != nil {
				return err
			}
			return errors.Join(os.Rename(a, b), os.Chtimes(b, info.ModTime(), info.ModTime()))
		},
		"swap": func() error {
			a, b := pick(), pick()
			if a == b {
				return nil
			}
			return errors.Join(os.Rename(a, a+".swap"), os.Rename(b, a), os.Rename(a+".swap", b))
		},
		"link": func() error {
			a := pick()
			return os.Link(a, a+fmt.Sprint("-", random.IntN(1e9)))
		},
		"through a link": func() error {
			a := pick()
			b := a + fmt.Sprint("+", random.IntN(1e9))
			f := fmt.Appendf(nil, "%06d", random.IntN(1e6))
			return errors.Join(os.Link(a, b), os.WriteFile(b, f, 0o644))
		},
		"chmod":    func() error { return os.Chmod(pick(), []os.FileMode{0o644, 0o755, 0o600}[random.IntN(3)]) },
		"new":      func() error { return os.WriteFile(pick()+"n", fmt.Append(nil, random.Int()), 0o644) },
		"truncate": func() error { return os.Truncate(pick(), int64(random.IntN(4))) },
		"append": func() error {
			f, err := os.OpenFile(pick(), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		},
		"nothing": func() error { return nil },
	}
	var names []string
	for name := range changes {
		names = append(names, name)
	}
	for i := range rounds {
		// Half of the time, what is known is relied on although files are young.
		if i%2 == 0 {
			age(t, s, dir)
			time.Sleep(12 * time.Millisecond) // the clock of a file system ticks every 10 ms or faster
		}
		var did []string
		for range 1 + random.IntN(3) {
			name := names[random.IntN(len(names))]
			if err := changes[name](); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			did = append(did, name)
		}
		got, _, err := s.Snapshot(t.Context(), dir, "h", false)
		if err != nil {
			t.Fatalf("round %d, after %v: %v", i, did, err)
		}
		if _, want, err := readAll(t, dir); got != want || err != nil {
			t.Fatalf("round %d, after %v: Snapshot = %s, want %s (%v)", i, did, got, want, err)
		}
	}
	if _, found, err := verify(t, s.dir); len(found) > 0 || err != nil {
		t.Errorf("Verify found %q, %v", found, err)
	}
}

// Files that did not change are not read again; those that are young, or all if
// told, are.
func TestSnapshotReads(t *testing.T) {
	t.Parallel()
	dir, cache := t.TempDir(), t.TempDir()
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(all bool) int {
		k := openKnown(cache, dir)
		if all {
			clear(k.files)
		}
		tr, err := openTree(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		tr.known = k
		if _, _, err := tr.digest(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := k.save(); err != nil {
			t.Fatal(err)
		}
		return k.read
	}
	if n := read(false); n != 20 {
		t.Errorf("the first time %d files are read, want 20", n)
	}
	if n := read(false); n != 20 {
		t.Errorf("files that were just written: %d are read again, want all 20", n)
	}
	age(t, &Store{cache: cache}, dir)
	if n := read(false); n != 0 {
		t.Errorf("of files that did not change %d are read again, want none", n)
	}
	if err := os.WriteFile(filepath.Join(dir, "7"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := read(false); n != 1 {
		t.Errorf("of 20 files of which one changed %d are read, want 1", n)
	}
	if n := read(true); n != 20 {
		t.Errorf("all are to be read, and %d of 20 are", n)
	}
	age(t, &Store{cache: cache}, dir)
	entries, err := os.ReadDir(cache)
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	raw, err := os.ReadFile(filepath.Join(cache, entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(filepath.Join(cache, entries[0].Name()), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := read(false); n != 20 {
		t.Errorf("with a damaged index %d files are read, want all 20", n)
	}
}

// A file that grows all the time does not keep a folder from being taken, and
// what is taken of it was in it.
func TestSnapshotGrowing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan bool), make(chan error)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-done:
				ended <- f.Close()
				return
			default:
				_, err = fmt.Fprintf(f, "line %09d\n", i)
			}
		}
		ended <- err
	}()
	s := openFor(t, filepath.Join(t.TempDir(), "store"), "a", t.TempDir())
	var keys []schema.Key
	for range 5 {
		keys = append(keys, snapshot(t, s, dir, "h"))
	}
	close(done)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range keys {
		at := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := s.Fetch(t.Context(), k, at); err != nil {
			t.Fatal(err)
		}
		part, err := os.ReadFile(filepath.Join(at, "log"))
		if err != nil || !strings.HasPrefix(string(whole), string(part)) {
			t.Errorf("snapshot %d has %d bytes that are not the beginning of the log (%v)", i, len(part), err)
		}
	}
}

// Stores of before pages keep a folder as one list of all that is in it.
func TestOldListing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	src := write(t, sample)
	key, files, err := s.PutFiles(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := s.lookup(key)
	if err != nil {
		t.Fatal(err)
	}
	members, err := s.rep.members(t.Context(), key, r.handle)
	if err != nil || len(members) != len(files) {
		t.Fatal(len(members), err)
	}
	w, err := s.rep.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old := writeOldListing(t, w, members)
	if err := w.commit(t.Context(), s.marker(), s.sums()); err != nil {
		t.Fatal(err)
	}
	if err := w.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.keys.add(line{key, record{kind: kindFolder, size: r.size, handle: old}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), func(schema.Key) (bool, error) { return false, nil }); err != nil {
		t.Fatal(err)
	}
	checkKept(t, dir, []schema.Key{key})
}

// Whatever lies in the cache: what is known of a folder is what was noted, or
// nothing.
func FuzzKnown(f *testing.F) {
	dir := f.TempDir()
	k := openKnown(dir, "/seed")
	k.next["a"] = fingerprint{Size: 1, Changed: 2, Inode: 3}
	if err := k.save(); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(k.file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:len(raw)-4], true)
	f.Add(raw, false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, raw []byte, sealed bool) {
		if sealed {
			raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli()))
		}
		if err := os.WriteFile(k.file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		openKnown(dir, "/seed")
	})
}

// Disks are told apart as far as the system does.
func TestDurability(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(t.TempDir(), "not", "there", "yet"))
	if got := s.Durability(dir); got != schema.SameDisk && runtime.GOOS == "linux" {
		t.Errorf("Durability of a folder beside the store = %q, want %q", got, schema.SameDisk)
	}
	if got := s.Durability(filepath.Join(dir, "absent")); got != "" {
		t.Errorf("Durability of what is not there = %q, want none", got)
	}
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		if got := s.Durability("/dev/shm"); got != "" {
			t.Errorf("Durability of a folder in memory = %q, want none: nobody says", got)
		}
	}
}
