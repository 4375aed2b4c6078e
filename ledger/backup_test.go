package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
)

// withVKey writes log.vkey, which a backup holds.
func withVKey(t testing.TB, w *ledgertest.World) {
	t.Helper()
	vkey, err := w.Log.VKey(ledgertest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Dir(), "log.vkey"), []byte(vkey+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// backup is a backup of l.
func backup(t testing.TB, l *ledger.Ledger) []byte {
	t.Helper()
	var b bytes.Buffer
	info, err := l.Backup(context.Background(), &b, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if info.Bytes != int64(b.Len()) {
		t.Errorf("Backup says %d bytes and writes %d", info.Bytes, b.Len())
	}
	return b.Bytes()
}

// imported is a ledger made from a backup.
func imported(t testing.TB, raw []byte) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new")
	if _, err := ledger.Import(context.Background(), bytes.NewReader(raw), dir, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bodies are the bodies of all entries, byte for byte.
func bodies(t testing.TB, l *ledger.Ledger) (out [][]byte) {
	t.Helper()
	for e, err := range l.Entries(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Body)
	}
	return out
}

// sameBodies compares what a directory holds with want.
func sameBodies(t testing.TB, w *ledgertest.World, dir string, want [][]byte) {
	t.Helper()
	l, err := ledger.OpenReadOnly(dir, w.Verifier, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := bodies(t, l)
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("entry %d is another", i)
		}
	}
}

// TestBackupWhileWriting backs up while 64 callers append and move cursors.
// What is made of it is whole, has no cursor ahead of its entries, and goes on
// with the same tree.
func TestBackupWhileWriting(t *testing.T) {
	t.Parallel()
	w := ledgertest.New(t)
	withVKey(t, w)
	fill(t, w, 700, 100)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var writers sync.WaitGroup
	for g := range 64 {
		writers.Go(func() {
			source, at := fmt.Sprintf("source-%d", g), ""
			for n := 0; ctx.Err() == nil; n++ {
				next := fmt.Sprint(n)
				_, err := w.Append(context.Background(), schema.Batch{
					Source: source, Envelopes: claims(t, fmt.Sprintf("%s at %d", source, n)),
					Cursors: []schema.Cursor{{Source: source, From: at, To: next}},
				})
				if err != nil {
					t.Errorf("appending while a backup is made: %v", err)
					return
				}
				at = next
			}
		})
	}
	var raws [][]byte
	for range 3 {
		if err := w.Wait(ctx, w.Size()+64); err != nil {
			t.Fatal(err)
		}
		raws = append(raws, backup(t, w.Ledger))
	}
	stop()
	writers.Wait()

	newest := w.Checkpoint()
	for i, raw := range raws {
		dir := imported(t, raw)
		ledgertest.Check(t, dir, w.Verifier)
		l, err := ledger.Open(dir, w.Signer, nil)
		if err != nil {
			t.Fatal(err)
		}
		old := l.Checkpoint()
		extends(t, w, w.Ledger, old, newest) // the original's history
		// Each cursor stands for an entry that is there: its batch is a duplicate.
		for g := range 64 {
			source := fmt.Sprintf("source-%d", g)
			at, err := l.Cursor(context.Background(), "", source)
			if err != nil {
				t.Fatal(err)
			}
			if at == "" {
				continue
			}
			r := mustAppend(t, l, schema.Batch{Source: source, Envelopes: claims(t, fmt.Sprintf("%s at %s", source, at))})
			if !r.Entries[0].Duplicate {
				t.Errorf("backup %d: the cursor of %s is at %s, and the entry is not there", i, source, at)
			}
		}
		r := mustAppend(t, l, batch(claims(t, "after the import")...))
		extends(t, w, l, old, r.Checkpoint)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		ledgertest.Check(t, dir, w.Verifier)
	}
}

// small is a ledger whose backup has every kind of member.
func small(t testing.TB) (*ledgertest.World, []byte) {
	t.Helper()
	w := ledgertest.New(t)
	withVKey(t, w)
	fill(t, w, 300, 50)
	mustAppend(t, w.Ledger, batchWithCursor())
	if err := os.WriteFile(filepath.Join(w.Dir(), "cosigned"), w.Checkpoint(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Log.Create(filepath.Join(w.Dir(), "log.key")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	info, err := w.Backup(context.Background(), &b, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Keys) != 1 || info.Keys[0] != "log.key" {
		t.Errorf("keys in the backup: %q", info.Keys)
	}
	return w, b.Bytes()
}

// TestImportRefuses cuts a backup off and alters it in many places. Nothing of
// it is taken, and nothing is left behind.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	w, raw := small(t)
	parts := 32
	if *long {
		parts = 1024
	}
	places := []int{1, len(raw) - 1, len(raw) - 1024, len(raw) - 1025, len(raw) - 1500}
	for i := range parts {
		places = append(places, i*len(raw)/parts)
	}
	refused := func(what string, raw []byte) {
		t.Helper()
		dir := t.TempDir()
		_, err := ledger.Import(context.Background(), bytes.NewReader(raw), dir, &ledger.CopyOptions{Key: w.Verifier})
		if err == nil {
			t.Errorf("%s: imported", what)
		}
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range left {
			if f.Name() != "lock" {
				t.Errorf("%s: %s is left behind", what, f.Name())
			}
		}
	}
	for _, at := range places {
		refused(fmt.Sprintf("cut off at %d", at), raw[:at])
		altered := bytes.Clone(raw)
		altered[at] ^= 0x20
		refused(fmt.Sprintf("byte %d altered", at), altered)
	}
	refused("with a byte behind it", append(bytes.Clone(raw), 0))
	refused("empty", nil)

	dir := t.TempDir()
	if _, err := ledger.Import(context.Background(), bytes.NewReader(raw), dir, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cosigned", "log.key", "log.vkey", "dedup.key"} {
		want, err := os.ReadFile(filepath.Join(w.Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not as it was: %v", name, err)
		}
	}
	if _, err := ledger.Import(context.Background(), bytes.NewReader(raw), dir, nil); !errors.Is(err, ledger.ErrExists) {
		t.Errorf("importing over a ledger: %v, want ErrExists", err)
	}
	ledgertest.Check(t, dir, w.Verifier)
	other := ledgertest.NewKeys(t)
	if _, err := ledger.Import(context.Background(), bytes.NewReader(raw), t.TempDir(), &ledger.CopyOptions{Key: other.Verifier}); err == nil {
		t.Error("a backup of another log was imported")
	}
}

// TestImportInterrupted kills an import at each member: what is left is refused
// with ErrUnfinished, and the import can be begun again.
func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	w, raw := small(t)
	var killed []string
	dir := filepath.Join(t.TempDir(), "new")
	in := &watched{r: bytes.NewReader(raw), each: 32 << 10, at: func() {
		if _, err := os.Stat(filepath.Join(dir, "unfinished")); err == nil {
			killed = append(killed, ledgertest.Copy(t, dir))
		}
	}}
	if _, err := ledger.Import(context.Background(), in, dir, nil); err != nil {
		t.Fatal(err)
	}
	if len(killed) == 0 {
		t.Fatal("the import was never looked at")
	}
	for _, dir := range killed {
		if _, err := ledger.Open(dir, w.Signer, nil); !errors.Is(err, ledger.ErrUnfinished) {
			t.Errorf("opening what a killed import left: %v, want ErrUnfinished", err)
		}
		for f, err := range ledger.Fsck(context.Background(), dir, w.Verifier, nil) {
			if !errors.Is(err, ledger.ErrUnfinished) {
				t.Errorf("Fsck of what a killed import left: %v, %v; want ErrUnfinished", f, err)
			}
		}
		if _, err := ledger.Import(context.Background(), bytes.NewReader(raw), dir, nil); err != nil {
			t.Errorf("beginning again: %v", err)
			continue
		}
		ledgertest.Check(t, dir, w.Verifier)
	}
}

// watched calls at before every so many bytes.
type watched struct {
	r    io.Reader
	each int
	n    int
	at   func()
}

func (w *watched) Read(p []byte) (int, error) {
	if w.n >= w.each {
		w.n = 0
		w.at()
	}
	n, err := w.r.Read(p[:min(len(p), w.each)])
	w.n += n
	return n, err
}

// TestBackupOfDamage: a backup of what is damaged fails.
func TestBackupOfDamage(t *testing.T) {
	t.Parallel()
	w := filled(t, 600, 100)
	withVKey(t, w)
	dir := rebuild(t, keep(t, w), func(key, value []byte) []byte {
		if string(key) == "b/\x00\x00\x00\x00\x00\x00\x00\x00" { // the segment furthest from the edge
			value[len(value)/2] ^= 1
		}
		return value
	})
	l, err := ledger.Open(dir, w.Signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var damage *ledger.DamageError
	if _, err := l.Backup(context.Background(), io.Discard, false, nil); !errors.As(err, &damage) {
		t.Errorf("Backup of a damaged ledger: %v, want a *DamageError", err)
	}
}

// TestErasedStaysErased takes an erasure through every kind of copy.
func TestErasedStaysErased(t *testing.T) {
	t.Parallel()
	w := ledgertest.NewKeys(t)
	encode := func(env schema.Envelope) []byte {
		b := schema.Body{Header: schema.Header{RecordedAt: time.Unix(1e9, 0), Namespace: "default", Source: "test"}, Envelope: env.Raw}
		raw, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	secret := encode(ledgertest.Claim(t, "a secret that must go"))
	leaf := schema.Commitment(secret)
	subject := schema.Descriptor{Name: "entry 1", Digest: schema.DigestSet{schema.SHA256: fmt.Sprintf("%x", leaf)}}
	erasure := w.Sign(t, schema.ErasureV1, schema.Erasure{Index: 1, Reason: "personal data"}, subject)
	all := [][]byte{encode(w.Genesis(t)), secret, encode(ledgertest.Claim(t, "stays")), encode(erasure)}

	dir := t.TempDir()
	if err := ledger.Receive(context.Background(), dir, w.Signer, w.Verifier, all); err != nil {
		t.Fatal(err)
	}
	vkey, err := w.Log.VKey(ledgertest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log.vkey"), []byte(vkey), 0o644); err != nil {
		t.Fatal(err)
	}
	erased := func(what, dir string) *ledger.Ledger {
		t.Helper()
		ledgertest.Check(t, dir, w.Verifier)
		l, err := ledger.OpenReadOnly(dir, w.Verifier, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Cleanup(func() { l.Close() })
		for index, want := range []schema.State{schema.Present, schema.Erased, schema.Present, schema.Present} {
			if e, err := l.Entry(context.Background(), int64(index)); err != nil || e.State != want {
				t.Errorf("%s: entry %d is %s, %v; want %s", what, index, e.State, err, want)
			}
		}
		return l
	}
	l := erased("received", dir)
	raw := backup(t, l)
	if bytes.Contains(raw, []byte("a secret that must go")) {
		t.Error("the backup holds the erased body")
	}
	erased("imported", imported(t, raw))

	mirror := t.TempDir()
	if _, err := ledger.Mirror(context.Background(), mirror, w.Verifier, &remote{l: l}, nil); err != nil {
		t.Fatal(err)
	}
	erased("mirrored", mirror)

	// A mirror that has the body loses it with the entry that erases it.
	early := t.TempDir()
	before := t.TempDir()
	if err := ledger.Receive(context.Background(), before, w.Signer, w.Verifier, all[:3]); err != nil {
		t.Fatal(err)
	}
	b, err := ledger.OpenReadOnly(before, w.Verifier, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := ledger.Mirror(context.Background(), early, w.Verifier, &remote{l: b}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Mirror(context.Background(), early, w.Verifier, &remote{l: l}, nil); err != nil {
		t.Fatal(err)
	}
	erased("mirrored before and after", early)
}

// FuzzBackup reads what is not a backup, and what nearly is one.
func FuzzBackup(f *testing.F) {
	w, raw := small(f)
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add(raw[:1024])
	f.Add([]byte("retrace-backup.json"))
	f.Fuzz(func(t *testing.T, in []byte) {
		n, err := ledger.ReadBackup(bytes.NewReader(in), w.Verifier)
		if err == nil && (!bytes.Equal(in, raw) || n != w.Size()) {
			t.Errorf("%d bytes pass for the backup, and are not it", len(in))
		}
	})
}
