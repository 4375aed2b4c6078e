package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	ledgerbench "github.com/retrace-ledger/retrace/ledger/bench"
	"github.com/retrace-ledger/retrace/picture"
)

func (a *app) benchGrowthCmd() *cobra.Command {
	var sizes, from []string
	cmd := &cobra.Command{
		Use:   "growth",
		Short: "What a ledger costs at 10,000, 100,000 and a million entries",
		Long: `Fill a new ledger with entries of about 1.7 KB from 1,024 callers, one size after
the other, and measure what should not grow with it: appends a second in the
last tenth against the first; memory, loaded and idle; the disk it takes, against
1.15 times the envelopes and 60 bytes an entry; opening, its files read from the
disk and again; an inclusion proof made and verified, warm; fsck.

Rates count the appends alone; the envelopes are made between them. A million
entries take a few minutes and 2.5 GB of disk, ten million 25 GB; all of it is
removed at the end.

-o svg draws the results. --from prints or draws what -o json said before, of
several files together.`,
		Example: "  retrace bench growth\n  retrace bench growth --sizes 1e4,1e7 -o json > growth.json\n  retrace bench growth --from growth.json -o svg > growth.svg",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput("svg"); err != nil {
				return err
			}
			results, err := growthFrom(from)
			if err != nil {
				return cannot(err)
			}
			if len(from) == 0 || cmd.Flags().Changed("sizes") {
				more, err := grow(cmd.Context(), sizes)
				if err != nil {
					return err
				}
				results = append(results, more...)
			}
			slices.SortStableFunc(results, func(x, y ledgerbench.Growth) int { return cmp.Compare(x.Entries, y.Entries) })
			return a.printGrowth(cmd, results)
		},
	}
	cmd.Flags().StringSliceVar(&sizes, "sizes", []string{"1e4", "1e5", "1e6"}, "entries to measure at, as 1000000 or 1e6")
	cmd.Flags().StringSliceVar(&from, "from", nil, "results of earlier runs, as -o json printed them")
	return cmd
}

// grow measures at each of sizes.
func grow(ctx context.Context, sizes []string) ([]ledgerbench.Growth, error) {
	var numbers []int64
	for _, s := range sizes {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f < 1000 || f > 1e9 || f != math.Trunc(f) {
			return nil, cannot(fmt.Errorf("--sizes %s: want 1000 to 1e9", s))
		}
		numbers = append(numbers, int64(f))
	}
	var results []ledgerbench.Growth
	return results, inScratch(func(dir string) error {
		for _, n := range numbers {
			bar := newProgress(n, "appending")
			g, err := ledgerbench.Grow(ctx, dir, n, func(done int64) { bar.set(done, n) })
			bar.finish()
			if err != nil {
				return cannot(err)
			}
			results = append(results, g)
		}
		return nil
	})
}

// growthFrom reads results of earlier runs.
func growthFrom(files []string) ([]ledgerbench.Growth, error) {
	var all []ledgerbench.Growth
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var of struct {
			Results []ledgerbench.Growth `json:"results"`
		}
		if err := json.Unmarshal(raw, &of, json.RejectUnknownMembers(true)); err != nil {
			return nil, fmt.Errorf("%s is not what retrace bench growth -o json prints: %w", name, err)
		}
		for _, g := range of.Results {
			if g.Entries < 1 || len(g.Tenths) == 0 {
				return nil, fmt.Errorf("%s is not what retrace bench growth -o json prints: a result has no entries", name)
			}
		}
		all = append(all, of.Results...)
	}
	return all, nil
}

func (a *app) printGrowth(cmd *cobra.Command, results []ledgerbench.Growth) error {
	switch a.output {
	case "json":
		return printJSON(cmd.OutOrStdout(), map[string]any{"results": results})
	case "svg":
		return picture.Charts(cmd.OutOrStdout(), "What a ledger costs, by the number of its entries", growthCharts(results))
	}
	t := newTable(cmd.OutOrStdout(), "ENTRIES", "PER SECOND", "LAST/FIRST TENTH", "IDLE", "DISK", "OF GOAL", "OPEN COLD", "OPEN", "PROOF", "VERIFIED", "WITH NOTE", "HASHES", "FSCK/S", "TOOK")
	for _, g := range results {
		mb := func(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
		ms := func(v float64) string { return fmt.Sprintf("%.0f ms", v) }
		us := func(v float64) string { return fmt.Sprintf("%.1f µs", v) }
		t.row(fmt.Sprint(g.Entries), fmt.Sprintf("%.0f", g.PerSecond), fmt.Sprintf("%.2f", g.Flat), mb(g.IdleBytes), mb(g.DiskBytes), fmt.Sprintf("%.2f", float64(g.DiskBytes)/float64(g.DiskGoal())),
			ms(g.OpenColdMs), ms(g.OpenMs),
			us(g.ProveUs), us(g.VerifyUs), us(g.CheckUs), fmt.Sprintf("%d B", g.ProofBytes), fmt.Sprintf("%.0f", g.FsckPerSecond), fmt.Sprintf("%.0f s", g.TookS))
	}
	return t.flush()
}

// growthCharts draws what should stay flat, each with its goal.
func growthCharts(results []ledgerbench.Growth) []picture.Chart {
	over := func(name string, goal bool, y func(ledgerbench.Growth) float64) picture.Line {
		l := picture.Line{Name: name, Goal: goal}
		for _, g := range results {
			l.Points = append(l.Points, picture.Point{X: float64(g.Entries), Y: y(g)})
		}
		return l
	}
	rate := picture.Chart{Title: "Appends a second, in each tenth"}
	for _, g := range results {
		l := picture.Line{Name: "to " + picture.Short(float64(g.Entries))}
		for i, v := range g.Tenths {
			l.Points = append(l.Points, picture.Point{X: float64(g.Entries) * float64(i+1) / float64(len(g.Tenths)), Y: v})
		}
		rate.Lines = append(rate.Lines, l)
	}
	return []picture.Chart{
		rate,
		{Title: "Memory, MB", Lines: []picture.Line{
			over("loaded and idle", false, func(g ledgerbench.Growth) float64 { return float64(g.IdleBytes) / 1e6 }),
			over("goal", true, func(g ledgerbench.Growth) float64 { return float64(g.IdleGoal()) / 1e6 }),
		}},
		{Title: "Disk, bytes an entry", Lines: []picture.Line{
			over("ledger", false, func(g ledgerbench.Growth) float64 { return float64(g.DiskBytes) / float64(g.Entries) }),
			over("envelopes", false, func(g ledgerbench.Growth) float64 { return float64(g.EnvelopeBytes) / float64(g.Entries) }),
			over("goal", true, func(g ledgerbench.Growth) float64 { return float64(g.DiskGoal()) / float64(g.Entries) }),
		}},
		{Title: "Opening, ms", Lines: []picture.Line{
			over("from the disk", false, func(g ledgerbench.Growth) float64 { return g.OpenColdMs }),
			over("again", false, func(g ledgerbench.Growth) float64 { return g.OpenMs }),
		}},
		{Title: "Inclusion proof, µs", Lines: []picture.Line{
			over("made", false, func(g ledgerbench.Growth) float64 { return g.ProveUs }),
			over("verified", false, func(g ledgerbench.Growth) float64 { return g.VerifyUs }),
			over("goal of each", true, func(ledgerbench.Growth) float64 { return 10 }),
		}},
		{Title: "fsck, entries a second", Lines: []picture.Line{
			over("read and compared", false, func(g ledgerbench.Growth) float64 { return g.FsckPerSecond }),
		}},
	}
}
