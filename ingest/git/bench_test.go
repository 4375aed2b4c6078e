package git

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/ingesttest"
	"github.com/retrace-ledger/retrace/keys"
)

// synthetic makes a bare repository of n commits: a main line with a branch
// that is merged back every tenth commit.
func synthetic(t testing.TB, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "synthetic.git")
	runGit(t, t.TempDir(), "", "init", "-q", "--bare", "-b", "main", dir)
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "commit refs/heads/main\nmark :%d\ncommitter Ada <ada@example.com> %d +0000\n", i+1, 1600000000+i*60)
		message := fmt.Sprintf("change number %d\n\nBecause the one before it was not the last one.\n", i)
		fmt.Fprintf(&b, "data %d\n%s", len(message), message)
		if i > 0 {
			fmt.Fprintf(&b, "from :%d\n", i)
		}
		if i > 10 && i%10 == 0 {
			fmt.Fprintf(&b, "merge :%d\n", i-5)
		}
		text := fmt.Sprintf("%d\n", i)
		fmt.Fprintf(&b, "M 100644 inline dir%d/file%d\ndata %d\n%s", i%7, i%100, len(text), text)
	}
	runGit(t, dir, b.String(), "fast-import", "--quiet")
	return dir
}

// BenchmarkRead reads 50,000 commits into a log in memory, signed.
func BenchmarkRead(b *testing.B) {
	const n = 50000
	dir := synthetic(b, n)
	key, err := keys.FromSeed(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		src, name, err := Open(b.Context(), ingest.Place{URL: "git+file://" + dir}, ingest.Env{})
		if err != nil {
			b.Fatal(err)
		}
		p, err := ingest.NewRunner(src, name, new(ingesttest.Log), key, nil).Once(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if p.Recorded != n+1 {
			b.Fatalf("recorded %d, want %d", p.Recorded, n+1)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
