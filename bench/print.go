package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// A style writes tables.
type style func(w io.Writer, title string, rows [][]string) error

// plain aligns columns for a terminal.
func plain(w io.Writer, title string, rows [][]string) error {
	fmt.Fprintf(w, "\n%s\n\n", title)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// markdown writes tables for a page.
func markdown(w io.Writer, title string, rows [][]string) error {
	fmt.Fprintf(w, "\n%s\n\n", title)
	for i, row := range rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat(" --- |", len(row)))
		}
	}
	return nil
}

func (r report) print(w io.Writer, table style) error {
	if r.Appends != nil {
		if err := r.Appends.print(w, table); err != nil {
			return err
		}
	}
	if r.Proofs != nil {
		rows := [][]string{{"proof of one entry", "entries", "made", "made, and the entry read", "verified", "hashes"}}
		for _, p := range r.Proofs {
			rows = append(rows, []string{p.Name, fmt.Sprint(p.Entries), micro(p.MadeUs), micro(p.ReadUs), micro(p.VerifyUs), fmt.Sprintf("%d B", p.Bytes)})
		}
		if err := table(w, "Proofs, warm: medians.", rows); err != nil {
			return err
		}
	}
	if m := r.Models; m != nil {
		rows := [][]string{
			{"step", "seconds", "times raw Badger", "goal"},
			{"raw Badger, the same keys, bytes and commits", m.RawS.show(2), "1", ""},
			{"appended", m.AppendS.show(2), m.AppendTimes.show(2), ""},
			{"indexed, no signature looked at", m.FollowS.show(2), "", ""},
			{"appended and indexed", "", m.Times.show(2), below(m.Times.Median, 1.4)},
			{"appended, each statement and signature checked", m.AppendVS.show(2), "", ""},
			{"indexed, each signature verified", m.FollowVS.show(2), "", ""},
			{"appended and indexed, checked and verified", "", m.VerifiedTimes.show(2), below(m.VerifiedTimes.Median, 4)},
		}
		title := fmt.Sprintf("%d models of six steps: %d signed statements, %d MB, a model a call from %d callers. Median [least to most] of the rounds.", m.Models, m.Entries, m.Bytes/1e6, modelsCallers)
		if err := table(w, title, rows); err != nil {
			return err
		}
	}
	if r.Ancestors != nil {
		return r.Ancestors.print(w, table)
	}
	return nil
}

func (a *appends) print(w io.Writer, table style) error {
	rows := [][]string{{"callers", "who", "entries/s", "p50", "p99", "retrace : it", "goal"}}
	goals := map[string]float64{}
	for _, c := range a.Contestants {
		goals[c.Name] = c.Goal
	}
	for _, f := range a.Figures {
		row := []string{fmt.Sprint(f.Callers), f.Name, f.PerSecond.show(0), "", "", "", ""}
		if f.P50Ms > 0 {
			row[3], row[4] = milli(f.P50Ms), milli(f.P99Ms)
		}
		switch {
		case f.Name == rawName:
			row[5] = f.Times.show(2) + " of it"
			goal := 0.7
			if f.Callers >= 1024 {
				goal = 0.85
			}
			row[6] = above(f.Times.Median, goal, "")
		case f.Name != retraceName:
			row[5] = f.Times.show(1) + " ×"
			if g := goals[f.Name]; g > 0 && f.Callers >= 1024 {
				row[6] = above(f.Times.Median, g, " ×")
			}
		}
		rows = append(rows, row)
	}
	if err := table(w, "Appends: median [least to most] of the rounds. The last two columns compare within a round.", rows); err != nil {
		return err
	}
	rows = [][]string{{"who", "durable", "provable", "signed", "how"}}
	for _, c := range a.Contestants {
		rows = append(rows, []string{c.Name, yes(c.Durable), yes(c.Provable), yes(c.Signed), c.How})
	}
	for _, name := range slices.Sorted(maps.Keys(a.Skipped)) {
		rows = append(rows, []string{name, "", "", "", "left out: " + a.Skipped[name]})
	}
	return table(w, "What an answer says of the entry: it outlives a power cut; hashes that cover it fix its place; the log has signed for it.", rows)
}

func (a *ancestors) print(w io.Writer, table style) error {
	rows := [][]string{{"who", "p50", "p99", "ratio", "the walk alone, p50", "ratio of the walks", "goal", "how"}}
	for _, s := range append(slices.Clone(a.Sides), a.Trip, a.Encode) {
		row := []string{s.Name, s.P50Us.show(0) + " µs", s.P99Us.show(0) + " µs", s.Times.show(2) + " ×", "", "", "", s.How}
		if s.WalkUs.Median > 0 {
			row[4], row[5] = s.WalkUs.show(0)+" µs", s.WalkTimes.show(2)+" ×"
		}
		switch s.Name {
		case retraceName:
			row[3], row[5] = "", ""
		case mapName:
			row[6] = "the walk " + below(s.WalkTimes.Median, mapWalkGoal)
		case sqliteName:
			row[6] = "the walk " + below(s.WalkTimes.Median, sqliteWalkGoal)
		case a.Encode.Name:
			row[6] = below(s.Times.Median, encodeGoal)
		}
		rows = append(rows, row)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Skipped)) {
		rows = append(rows, []string{name, "", "", "", "", "", "", "left out: " + a.Skipped[name]})
	}
	title := fmt.Sprintf("All ancestors of a model, over HTTP on the loopback: %d models of six steps, %d resources, %d edges; %d models asked for, %.0f edges and %.0f kB an answer. Median [least to most] of the rounds.",
		a.Models, a.Nodes, a.Edges, a.Asked, a.Answer, a.Bytes/1000)
	return table(w, title, rows)
}

// show gives the median with the ends, with so many decimals.
func (s spread) show(decimals int) string {
	return fmt.Sprintf("%.*f [%.*f to %.*f]", decimals, s.Median, decimals, s.Min, decimals, s.Max)
}

func above(have, want float64, unit string) string {
	return verdict(have >= want, fmt.Sprintf("at least %g%s", want, unit))
}

func below(have, want float64) string {
	return verdict(have <= want, fmt.Sprintf("at most %g", want))
}

func verdict(met bool, goal string) string {
	if met {
		return goal + ": met"
	}
	return goal + ": missed"
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func milli(ms float64) string { return fmt.Sprintf("%.2f ms", ms) }
func micro(us float64) string { return fmt.Sprintf("%.1f µs", us) }
