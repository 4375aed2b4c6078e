package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"

	"filippo.io/torchwood"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retrace-ledger/retrace/ledger"
	"github.com/retrace-ledger/retrace/ledger/ledgertest"
	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// filled is a ledger with n entries, appended in batches of at most step.
func filled(t testing.TB, n, step int) *ledgertest.World {
	t.Helper()
	w := ledgertest.New(t)
	fill(t, w, n, step)
	return w
}

func fill(t testing.TB, w *ledgertest.World, n, step int) {
	t.Helper()
	for at := int(w.Size()); at < n; at = int(w.Size()) {
		var envs []schema.Envelope
		for i := range min(step, n-at) {
			envs = append(envs, ledgertest.Claim(t, fmt.Sprint(at+i)))
		}
		mustAppend(t, w.Ledger, batch(envs...))
	}
}

// leafHashes reads the leaf hashes of all entries.
func leafHashes(t testing.TB, l *ledger.Ledger) []tlog.Hash {
	t.Helper()
	var out []tlog.Hash
	for e, err := range l.Entries(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tlog.RecordHash(e.Commitment[:]))
	}
	return out
}

// rootsOf computes the root of each size up to all leaves with the reference
// code of package tlog.
func rootsOf(t testing.TB, leaves []tlog.Hash) []tlog.Hash {
	t.Helper()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range at {
			out = append(out, stored[i])
		}
		return out, nil
	})
	roots := []tlog.Hash{tlog.Hash(rfc6962.DefaultHasher.EmptyRoot())}
	for i, leaf := range leaves {
		hashes, err := tlog.StoredHashesForRecordHash(int64(i), leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		root, err := tlog.TreeHash(int64(i+1), reader)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root)
	}
	return roots
}

func checkInclusion(t *testing.T, l *ledger.Ledger, leaves, roots []tlog.Hash, index, size int64) {
	t.Helper()
	p, err := l.ProveInclusion(context.Background(), index, size)
	if err != nil {
		t.Fatalf("ProveInclusion(%d, %d): %v", index, size, err)
	}
	if err := tlog.CheckRecord(p, size, roots[size], index, leaves[index]); err != nil {
		t.Fatalf("entry %d in size %d: %v", index, size, err)
	}
}

func checkConsistency(t *testing.T, l *ledger.Ledger, roots []tlog.Hash, old, new int64) {
	t.Helper()
	p, err := l.ProveConsistency(context.Background(), old, new)
	if err != nil {
		t.Fatalf("ProveConsistency(%d, %d): %v", old, new, err)
	}
	a, b := verify.Checkpoint{Size: old, Root: roots[old]}, verify.Checkpoint{Size: new, Root: roots[new]}
	if err := verify.VerifyConsistency(a, b, p); err != nil {
		t.Fatal(err)
	}
}

func TestProofsOfSmallSizes(t *testing.T) {
	const most = 150
	w := filled(t, most, 7)
	leaves := leafHashes(t, w.Ledger)
	roots := rootsOf(t, leaves)
	for size := int64(0); size <= most; size++ {
		for index := range size {
			checkInclusion(t, w.Ledger, leaves, roots, index, size)
		}
		for old := int64(0); old <= size; old++ {
			checkConsistency(t, w.Ledger, roots, old, size)
		}
	}
}

func TestProofsOfLargeSizes(t *testing.T) {
	t.Parallel()
	const most = 66_000 // three levels of tiles
	w := filled(t, most, 4096)
	leaves := leafHashes(t, w.Ledger)
	roots := rootsOf(t, leaves)
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, again := range []bool{false, true} {
		for range 1000 {
			size := 1 + rnd.Int64N(most)
			checkInclusion(t, w.Ledger, leaves, roots, rnd.Int64N(size), size)
			checkConsistency(t, w.Ledger, roots, rnd.Int64N(size), size)
		}
		if !again {
			reopen(t, w)
		}
	}
	others(t, w, leaves)
}

// others has other people's code check what the ledger proves and serves.
func others(t *testing.T, w *ledgertest.World, leaves []tlog.Hash) {
	t.Helper()
	ctx := context.Background()
	policy := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(ledgertest.Origin), torchwood.SingleVerifierPolicy(w.Verifier))
	for _, index := range []int64{0, 1, 255, 256, 40_000, 65_535, 65_536, w.Size() - 1} {
		p, err := w.Proof(ctx, index)
		if err != nil {
			t.Fatal(err)
		}
		if err := torchwood.VerifyProof(policy, leaves[index], p.Marshal()); err != nil {
			t.Errorf("torchwood on the proof of entry %d: %v", index, err)
		}
		cp, _, _, err := log.ParseCheckpoint(p.Checkpoint, ledgertest.Origin, w.Verifier)
		if err != nil {
			t.Fatalf("transparency-dev on the checkpoint: %v", err)
		}
		var hashes [][]byte
		for _, h := range p.Hashes {
			hashes = append(hashes, h[:])
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), cp.Size, leaves[index][:], hashes, cp.Hash); err != nil {
			t.Errorf("transparency-dev on the proof of entry %d: %v", index, err)
		}
	}
	server := httptest.NewServer(w.Handler())
	defer server.Close()
	fetcher, err := torchwood.NewTileFetcher(server.URL, torchwood.WithTilePath(torchwood.TilePath))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := fetcher.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	cp, _, err := torchwood.VerifyCheckpoint(signed, policy)
	if err != nil {
		t.Fatal(err)
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for index, data := range client.AllEntries(ctx, cp.Tree, 0) {
		if index != n || tlog.RecordHash(data) != leaves[index] {
			t.Fatalf("torchwood reads entry %d as number %d with other data", index, n)
		}
		n++
	}
	if err := client.Err(); err != nil || n != w.Size() {
		t.Errorf("torchwood reads %d entries of %d: %v", n, w.Size(), err)
	}
}

func TestProofErrors(t *testing.T) {
	w := filled(t, 5, 5)
	ctx := context.Background()
	for _, c := range []struct{ index, size int64 }{{-1, 5}, {5, 5}, {0, 0}, {0, 6}, {0, -1}} {
		if _, err := w.ProveInclusion(ctx, c.index, c.size); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("ProveInclusion(%d, %d): %v", c.index, c.size, err)
		}
	}
	for _, c := range []struct{ old, new int64 }{{3, 2}, {0, 6}, {-1, 2}} {
		if _, err := w.ProveConsistency(ctx, c.old, c.new); err == nil {
			t.Errorf("ProveConsistency(%d, %d) succeeded", c.old, c.new)
		}
	}
	for _, index := range []int64{-1, 5} {
		if _, err := w.Proof(ctx, index); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("Proof(%d): %v", index, err)
		}
		if _, err := w.Entry(ctx, index); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("Entry(%d): %v", index, err)
		}
	}
}

func TestHandler(t *testing.T) {
	w := filled(t, 700, 300) // level 0: 2 full tiles and 188; level 1: 2
	server := httptest.NewServer(w.Handler())
	defer server.Close()
	const octets, forever = "application/octet-stream", "public, max-age=31536000, immutable"
	for _, c := range []struct {
		path          string
		status, size  int
		content, keep string
	}{
		{"/checkpoint", 200, len(w.Checkpoint()), "text/plain; charset=utf-8", "no-cache"},
		{"/tile/0/000", 200, 8192, octets, forever},
		{"/tile/0/001", 200, 8192, octets, forever},
		{"/tile/0/001.p/7", 200, 7 * 32, octets, forever},
		{"/tile/0/002.p/188", 200, 188 * 32, octets, forever},
		{"/tile/0/002.p/100", 200, 100 * 32, octets, forever},
		{"/tile/1/000.p/2", 200, 64, octets, forever},
		{"/tile/entries/001", 200, 8704, octets, forever},
		{"/tile/entries/002.p/188", 200, 188 * 34, octets, forever},
		{"/tile/entries/000.p/1", 200, 34, octets, forever},
		{"/tile/0/002", 404, -1, "", ""},
		{"/tile/0/002.p/189", 404, -1, "", ""},
		{"/tile/0/002.p/0", 404, -1, "", ""},
		{"/tile/0/002.p/256", 404, -1, "", ""},
		{"/tile/0/003.p/1", 404, -1, "", ""},
		{"/tile/1/000", 404, -1, "", ""},
		{"/tile/2/000.p/1", 404, -1, "", ""},
		{"/tile/63/000.p/1", 404, -1, "", ""},
		{"/tile/64/000.p/1", 404, -1, "", ""},
		{"/tile/0/1", 404, -1, "", ""},
		{"/tile/0/x000/001", 404, -1, "", ""},
		{"/tile/00/001", 404, -1, "", ""},
		{"/tile/entries/003", 404, -1, "", ""},
		{"/tile/data/000", 404, -1, "", ""},
		{"/tile/8/0/000", 404, -1, "", ""},
		{"/tile/", 404, -1, "", ""},
		{"/", 404, -1, "", ""},
	} {
		resp, err := http.Get(server.URL + c.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status || c.size >= 0 && len(body) != c.size {
			t.Errorf("%s: %d with %d bytes, want %d with %d", c.path, resp.StatusCode, len(body), c.status, c.size)
		}
		if c.content == "" {
			continue
		}
		if got := resp.Header.Get("Content-Type"); got != c.content {
			t.Errorf("%s: Content-Type %q, want %q", c.path, got, c.content)
		}
		if got := resp.Header.Get("Cache-Control"); got != c.keep {
			t.Errorf("%s: Cache-Control %q, want %q", c.path, got, c.keep)
		}
	}
	resp, err := http.Post(server.URL+"/checkpoint", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /checkpoint: %d", resp.StatusCode)
	}
}
