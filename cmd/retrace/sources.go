package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/retrace-ledger/retrace/client"
)

func (a *app) sourcesCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "sources",
		Short: "Say how each source is doing that the server watches",
		Long: `Say how each source is doing that the server of this ledger watches: its state, how
long ago it was read to its end (LAG), what was read since the server began, and
why the last read failed. Exit status 1: a source is failing or was given up.

WAITING: read to its end, and looked at again after the interval. READING: being
read. FAILING: the last read failed; it is tried again. STOPPED: watched no more,
as after a conflict with another reader; SIGHUP has the server begin it anew.`,
		Example: "  retrace sources\n  retrace sources --server http://127.0.0.1:8470 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			c, err := a.liveServer(cmd.Context())
			if err != nil {
				return err
			}
			states, err := c.Sources(cmd.Context())
			if err != nil {
				return cannot(err)
			}
			if a.output == "json" {
				err = printJSON(cmd.OutOrStdout(), states)
			} else {
				err = printSources(cmd.OutOrStdout(), states)
			}
			if err != nil {
				return err
			}
			bad := 0
			for _, s := range states {
				if s.Error != "" {
					bad++
				}
			}
			if bad > 0 {
				return isFalse(fmt.Errorf("%d of %s could not be read", bad, count(len(states), "source", "sources")))
			}
			return nil
		},
	}
}

// liveServer is the server named by --server, or the one of this ledger.
func (a *app) liveServer(ctx context.Context) (*client.Client, error) {
	if a.server != "" {
		return a.client()
	}
	dir, err := a.findDir()
	if err != nil {
		return nil, err
	}
	c, ok, err := discover(ctx, dir)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, cannot(&hinted{errors.New("no server of this ledger is running, so nothing is being watched"), "run `retrace serve --config retrace.yaml`; `retrace coverage` says what was watched, and when"})
	}
	return c, nil
}

func printSources(w io.Writer, states []client.SourceState) error {
	if len(states) == 0 {
		_, err := fmt.Fprintln(w, "no sources are configured")
		return err
	}
	t := newTable(w, "SOURCE", "NAMESPACE", "STATE", "LAG", "RECORDED", "KNOWN", "LEFT OUT")
	for _, s := range states {
		lag := "-"
		if !s.Seen.IsZero() {
			lag = time.Duration(s.LagSeconds * float64(time.Second)).Round(time.Second).String()
		}
		t.row(s.Source, s.Namespace, s.State, lag, strconv.Itoa(s.Recorded), strconv.Itoa(s.Duplicates), strconv.Itoa(s.Skipped))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, s := range states {
		if s.Error == "" {
			continue
		}
		fmt.Fprintf(w, "%s: %s\n", printable(s.Source), printable(s.Error))
	}
	return nil
}
