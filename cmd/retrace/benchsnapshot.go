package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/ingest/snapshot"
	"github.com/retrace-ledger/retrace/schema"
)

func (a *app) benchSnapshotCmd() *cobra.Command {
	var o snapshotBench
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Snapshots of a changing folder, against restic or copies by hard links",
		Long: `Make a folder as notebooks leave it (notebooks, CSV, JSON, checkpoints), change a
few files again and again, and take a snapshot after each change, as ` + "`retrace serve`" + `
would. The baseline takes turns for the first rounds: "restic" (if installed, a
process for each backup) or "links", a copy in which what did not change is a hard
link, as rsync --link-dest makes. Bytes on the disk are those that the file system
has allocated. A gigabyte and 1,000 snapshots take some twenty minutes and 5 GB.
Interrupted, it ends with the rounds that it had.`,
		Example: "  retrace bench snapshot\n  retrace bench snapshot --size 1000 --rounds 1000 --baseline restic",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if o.size < 5 || o.rounds < 1 || o.baseline != "restic" && o.baseline != "links" {
				return cannot(errors.New("want --size of at least 5, --rounds of at least 1 and --baseline restic or links"))
			}
			return inScratch(func(dir string) error {
				r, err := o.run(cmd.Context(), dir)
				if err != nil {
					return cannot(err)
				}
				return a.printSnapshotBench(cmd, r)
			})
		},
	}
	cmd.Flags().IntVar(&o.size, "size", 20, "megabytes of the folder")
	cmd.Flags().IntVar(&o.rounds, "rounds", 20, "how many snapshots")
	cmd.Flags().StringVar(&o.baseline, "baseline", "links", "what to compare with: links or restic")
	cmd.Flags().IntVar(&o.compared, "baseline-rounds", 100, "for how many rounds the baseline takes turns")
	return cmd
}

// snapshotBench is a run of bench snapshot.
type snapshotBench struct {
	size, rounds, compared int
	baseline               string

	tree   string
	random *rand.Rand
	named  map[string][]string // files by kind
}

// snapshotResult is what it measured.
type snapshotResult struct {
	Megabytes int `json:"megabytes"`
	Files     int `json:"files"`
	Rounds    int `json:"rounds"`
	// The first snapshot, and those after it.
	FirstS        float64 `json:"firstSeconds"`
	P50Ms         float64 `json:"p50Ms"`
	P99Ms         float64 `json:"p99Ms"`
	LastTenthMs   float64 `json:"lastTenthP50Ms"`
	UnchangedMs   float64 `json:"unchangedMs"`
	ChangedBytes  int64   `json:"changedBytes"` // of all files that were written in all rounds
	FirstBytes    int64   `json:"firstBytes"`   // of the content store after the first
	ContentBytes  int64   `json:"contentBytes"` // of the content store after all
	LedgerBytes   int64   `json:"ledgerBytes"`  // of ledger and lineage
	PeakBytes     int64   `json:"peakBytes"`    // resident memory of this process
	RestoreS      float64 `json:"restoreSeconds"`
	CopyS         float64 `json:"copySeconds"` // a plain copy of the folder
	Baseline      string  `json:"baseline"`
	BaselineRuns  int     `json:"baselineRounds"`
	BaselineP50   float64 `json:"baselineP50Ms"`
	SameP50       float64 `json:"sameRoundsP50Ms"` // of ours, in those rounds
	BaselineFirst float64 `json:"baselineFirstSeconds"`
	BaselineBytes int64   `json:"baselineBytes"`
	SameBytes     int64   `json:"sameRoundsBytes"` // of content store and ledger, after those rounds
	BaselineBack  float64 `json:"baselineRestoreSeconds"`
}

func (o *snapshotBench) run(ctx context.Context, dir string) (r snapshotResult, err error) {
	o.tree, o.random, o.named = filepath.Join(dir, "tree"), rand.New(rand.NewPCG(1, 1)), map[string][]string{}
	r = snapshotResult{Megabytes: o.size, Rounds: o.rounds, Baseline: o.baseline, BaselineRuns: min(o.compared, o.rounds)}
	if r.Files, err = o.fill(); err != nil {
		return r, err
	}
	home := filepath.Join(dir, "ledger")
	if _, err := createLedger(home, "", "", ""); err != nil {
		return r, err
	}
	b, err := openLocal(ctx, home)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	kind := snapshot.Kind()
	abs, err := filepath.Abs(o.tree)
	if err != nil {
		return r, err
	}
	source, name, err := kind.Open(ctx, ingest.Place{URL: snapshot.URL(abs)}, ingest.Env{Content: b.store})
	if err != nil {
		return r, err
	}
	runner := ingest.NewRunner(source, name, b.log, b.observer, &ingest.Options{Submitter: b.observer.ID()})
	take := func() (float64, error) {
		started := time.Now()
		_, err := runner.Once(context.WithoutCancel(ctx))
		return time.Since(started).Seconds() * 1000, err
	}
	base := newBaseline(o.baseline, o.tree, filepath.Join(dir, "baseline"))
	if o.size >= 100 {
		time.Sleep(61 * time.Second) // files that were just written are read again, which a folder in use has few of
	}
	first, err := take()
	if err != nil {
		return r, err
	}
	r.FirstS = first / 1000
	if r.FirstBytes, err = allocated(filepath.Join(home, contentDir)); err != nil {
		return r, err
	}
	if r.BaselineFirst, err = base.take(ctx, 0); err != nil {
		return r, err
	}
	r.BaselineFirst /= 1000
	var ours, theirs []float64
	var earlier string
	interrupted := ctx
	ctx = context.WithoutCancel(ctx)
	for i := 1; i < o.rounds; i++ {
		if interrupted.Err() != nil && i >= r.BaselineRuns && earlier != "" {
			r.Rounds = i
			break
		}
		n, err := o.change(i)
		if err != nil {
			return r, err
		}
		r.ChangedBytes += n
		ms, err := take()
		if err != nil {
			return r, err
		}
		ours = append(ours, ms)
		if i < r.BaselineRuns {
			if ms, err = base.take(ctx, i); err != nil {
				return r, err
			}
			theirs = append(theirs, ms)
		}
		if i == r.BaselineRuns-1 {
			r.SameP50 = quantile(ours, 0.5)
			if r.SameBytes, err = allocated(home); err != nil {
				return r, err
			}
		}
		if i == max(1, o.rounds/4) {
			if earlier, err = b.log.Cursor(ctx, schema.DefaultNamespace, name); err != nil {
				return r, err
			}
		}
	}
	if len(ours) > 0 {
		r.P50Ms, r.P99Ms = quantile(ours, 0.5), quantile(ours, 0.99)
		r.LastTenthMs = quantile(ours[len(ours)-max(1, len(ours)/10):], 0.5)
	}
	if len(theirs) > 0 {
		r.BaselineP50 = quantile(theirs, 0.5)
	}
	if r.UnchangedMs, err = take(); err != nil {
		return r, err
	}
	r.PeakBytes = peakMemory()
	if err := b.graph.Follow(ctx, b.log); err != nil {
		return r, err
	}
	if r.ContentBytes, err = allocated(filepath.Join(home, contentDir)); err != nil {
		return r, err
	}
	whole, err := allocated(home)
	if err != nil {
		return r, err
	}
	r.LedgerBytes = whole - r.ContentBytes
	if r.BaselineBytes, err = allocated(base.at); err != nil {
		return r, err
	}
	return r, o.restore(ctx, b, base, earlier, dir, &r)
}

// restore lays an earlier snapshot out, and has the baseline do the same.
func (o *snapshotBench) restore(ctx context.Context, b *book, base *baseline, cursor, dir string, r *snapshotResult) error {
	at, err := snapshot.At(cursor)
	if err != nil {
		return err
	}
	if at != "" {
		started := time.Now()
		if err := b.store.Fetch(ctx, at, filepath.Join(dir, "restored")); err != nil {
			return err
		}
		r.RestoreS = time.Since(started).Seconds()
		if got, _, err := b.store.Digest(ctx, filepath.Join(dir, "restored")); err != nil || got != at {
			return fmt.Errorf("restored %s, want %s: %w", got, at, err)
		}
	}
	if r.BaselineBack, err = base.restore(ctx, filepath.Join(dir, "restored-baseline")); err != nil {
		return err
	}
	started := time.Now()
	if err := os.CopyFS(filepath.Join(dir, "copy"), os.DirFS(o.tree)); err != nil {
		return err
	}
	r.CopyS = time.Since(started).Seconds()
	return nil
}

// Kinds of files, and how much of a folder of 1,000 MB they are: so many of so
// many bytes.
var benchFiles = []struct {
	kind, name string
	count      int
	bytes      int
}{
	{"checkpoint", "runs/%03d/checkpoint-%d.bin", 16, 20 << 20},
	{"table", "data/%03d/part-%d.csv", 400, 1 << 20},
	{"notebook", "notebooks/%03d/analysis-%d.ipynb", 1600, 150 << 10},
	{"small", "projects/%03d/config-%d.json", 18000, 2 << 10},
}

// fill makes the folder, and returns how many files it has.
func (o *snapshotBench) fill() (files int, err error) {
	for _, f := range benchFiles {
		for i := range max(1, f.count*o.size/1000) {
			name := filepath.Join(o.tree, fmt.Sprintf(f.name, i/100, i))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return 0, err
			}
			if err := os.WriteFile(name, o.text(f.kind, min(f.bytes, o.size<<20/20)), 0o644); err != nil {
				return 0, err
			}
			o.named[f.kind] = append(o.named[f.kind], name)
			files++
		}
	}
	return files, nil
}

// text is what a file of the kind holds: numbers as text, which compresses; a
// notebook's pictures and a checkpoint's weights do not.
func (o *snapshotBench) text(kind string, n int) []byte {
	var b []byte
	switch kind {
	case "checkpoint":
		b = make([]byte, n)
		for i := range b {
			b[i] = byte(o.random.Uint32())
		}
	case "notebook":
		for len(b) < n {
			picture := make([]byte, 12<<10)
			for i := range picture {
				picture[i] = byte(o.random.Uint32())
			}
			b = fmt.Appendf(b, "{\"cell_type\": \"code\", \"execution_count\": %d, \"source\": [\"plot(frame)\\n\"], \"outputs\": [{\"image/png\": \"%s\"}]},\n", o.random.IntN(99), base64.StdEncoding.EncodeToString(picture))
		}
	default:
		for len(b) < n {
			b = fmt.Appendf(b, "%d,%d,%.4f\n", len(b), o.random.IntN(1000), o.random.Float64())
		}
	}
	return b
}

// change is what happens in ten minutes: a notebook is run, rows are added to a
// table, three small files are written; every 25th time, a checkpoint. It returns
// the bytes of the files that it wrote to.
func (o *snapshotBench) change(round int) (int64, error) {
	pick := func(kind string) string { return o.named[kind][o.random.IntN(len(o.named[kind]))] }
	var written []string
	notebook := pick("notebook")
	raw, err := os.ReadFile(notebook)
	if err != nil {
		return 0, err
	}
	cells := strings.SplitAfter(string(raw), "\n")
	cells[o.random.IntN(max(1, len(cells)-1))] = string(o.text("notebook", 1))
	table := pick("table")
	f, err := os.OpenFile(table, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(o.text("table", 20<<10))
	if err := errors.Join(err, f.Close(), os.WriteFile(notebook, []byte(strings.Join(cells, "")), 0o644)); err != nil {
		return 0, err
	}
	written = append(written, notebook, table)
	for range 3 {
		name := pick("small")
		if err := os.WriteFile(name, o.text("small", 2<<10), 0o644); err != nil {
			return 0, err
		}
		written = append(written, name)
	}
	if round%25 == 0 {
		name := pick("checkpoint")
		info, err := os.Stat(name)
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(name, o.text("checkpoint", int(info.Size())), 0o644); err != nil {
			return 0, err
		}
		written = append(written, name)
	}
	var n int64
	for _, name := range written {
		info, err := os.Stat(name)
		if err != nil {
			return 0, err
		}
		n += info.Size()
	}
	return n, nil
}

// baseline takes snapshots in another way.
type baseline struct {
	name, tree, at string
	last           string // copy before
}

func newBaseline(name, tree, at string) *baseline { return &baseline{name: name, tree: tree, at: at} }

// take returns the milliseconds that it took.
func (b *baseline) take(ctx context.Context, round int) (float64, error) {
	if b.name == "restic" {
		if round == 0 {
			if err := b.restic(ctx, "init"); err != nil {
				return 0, err
			}
		}
		started := time.Now()
		err := b.restic(ctx, "backup", b.tree)
		return time.Since(started).Seconds() * 1000, err
	}
	started := time.Now()
	to := filepath.Join(b.at, strconv.Itoa(round))
	err := copyLinked(b.tree, b.last, to)
	b.last = to
	return time.Since(started).Seconds() * 1000, err
}

func (b *baseline) restic(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "restic", append([]string{"--quiet", "--repo", filepath.Join(b.at, "repo"), "--cache-dir", filepath.Join(b.at, "cache")}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=bench")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("restic %s: %w: %s", args[0], err, out)
	}
	return nil
}

// restore lays the newest snapshot out, and returns the seconds that it took.
func (b *baseline) restore(ctx context.Context, to string) (float64, error) {
	started := time.Now()
	if b.name == "restic" {
		err := b.restic(ctx, "restore", "latest", "--target", to)
		return time.Since(started).Seconds(), err
	}
	err := os.CopyFS(to, os.DirFS(b.last))
	return time.Since(started).Seconds(), err
}

// copyLinked copies the folder from to to. A file that is in last with the same
// size and time is a hard link to that.
func copyLinked(from, last, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if before, err := os.Lstat(filepath.Join(last, rel)); last != "" && err == nil && before.Size() == info.Size() && before.ModTime().Equal(info.ModTime()) {
			return os.Link(filepath.Join(last, rel), filepath.Join(to, rel))
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(filepath.Join(to, rel), raw, 0o644), os.Chtimes(filepath.Join(to, rel), info.ModTime(), info.ModTime()))
	})
}

// allocated is how many bytes the file system has allocated for what is below
// dir, each file once.
func allocated(dir string) (n int64, err error) {
	seen := map[uint64]bool{}
	return n, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if inode, size := onDisk(info); !seen[inode] {
			seen[inode] = true
			n += size
		}
		return nil
	})
}

// peakMemory is the most that this process had resident, in bytes; 0 where the
// system does not say.
func peakMemory() int64 {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kb << 10
}

func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (a *app) printSnapshotBench(cmd *cobra.Command, r snapshotResult) error {
	if a.output == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]any{"results": []snapshotResult{r}})
	}
	mb := func(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
	ms := func(v float64) string { return fmt.Sprintf("%.0f ms", v) }
	s := func(v float64) string { return fmt.Sprintf("%.1f s", v) }
	t := newTable(cmd.OutOrStdout(), "", "RETRACE", strings.ToUpper(r.Baseline), "RATIO")
	t.row("folder", fmt.Sprintf("%d MB, %d files", r.Megabytes, r.Files), "", "")
	t.row("first snapshot", s(r.FirstS), s(r.BaselineFirst), fmt.Sprintf("%.2f", r.FirstS/r.BaselineFirst))
	t.row(fmt.Sprintf("each of %d, median", r.BaselineRuns), ms(r.SameP50), ms(r.BaselineP50), fmt.Sprintf("%.2f", r.SameP50/r.BaselineP50))
	t.row("  bytes after those", mb(r.SameBytes), mb(r.BaselineBytes), fmt.Sprintf("%.2f", float64(r.SameBytes)/float64(r.BaselineBytes)))
	t.row(fmt.Sprintf("each of %d, median", r.Rounds), ms(r.P50Ms), "", "")
	t.row("  99 of 100", ms(r.P99Ms), "", "")
	t.row("  the last tenth, median", ms(r.LastTenthMs), "", "")
	t.row("nothing changed", ms(r.UnchangedMs), "", "")
	t.row("content store, first", mb(r.FirstBytes), "", "")
	t.row("content store, all", mb(r.ContentBytes), "", "")
	t.row("ledger and lineage", mb(r.LedgerBytes), "", "")
	t.row("written to the folder", mb(r.ChangedBytes), "", "")
	t.row("memory, peak", mb(r.PeakBytes), "", "")
	t.row("restored, one of them", s(r.RestoreS), s(r.BaselineBack), fmt.Sprintf("%.2f", r.RestoreS/r.BaselineBack))
	t.row("a plain copy", s(r.CopyS), "", "")
	return t.flush()
}
