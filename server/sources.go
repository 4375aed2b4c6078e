package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/retrace-ledger/retrace/client"
	"github.com/retrace-ledger/retrace/ingest"
)

// Source is a source that the server watches.
type Source struct {
	Kind    string
	Stopped error // why it is watched no more; nil while it is
	ingest.Status
}

// getSources says how each source is doing.
func (s *Server) getSources(w http.ResponseWriter, r *http.Request) {
	states := []client.SourceState{}
	if s.opt.Sources != nil {
		now := time.Now()
		for _, src := range s.opt.Sources() {
			states = append(states, src.state(now))
		}
	}
	s.answerJSON(w, r, states)
}

// state is what is told of the source. An error can hold what a remote place
// said: it is cut to a line's length.
func (src *Source) state(now time.Time) client.SourceState {
	c := client.SourceState{
		Source: src.Source, Kind: src.Kind, Namespace: src.Namespace, State: "WAITING", Seen: src.Seen, Again: src.Again,
		Reads: src.Reads, Failures: src.Failures, Recorded: src.Recorded, Duplicates: src.Duplicates, Skipped: src.Skipped,
	}
	if !src.Seen.IsZero() {
		c.LagSeconds = now.Sub(src.Seen).Seconds()
	}
	err := src.Err
	switch {
	case src.Stopped != nil:
		c.State, err = "STOPPED", src.Stopped
	case src.Reading:
		c.State = "READING"
	case src.Err != nil:
		c.State = "FAILING"
	}
	if err != nil {
		c.Error = clipTo(err.Error(), maxSourceError)
	}
	return c
}

// maxSourceError is how much of an error is told, in bytes.
const maxSourceError = 512

func clipTo(s string, n int) string {
	if len(s) > n {
		return s[:n-3] + "..."
	}
	return s
}

// ServeMetrics serves /healthz, /readyz and /metrics on an address of their
// own, to anybody who reaches it, until ctx ends.
func (s *Server) ServeMetrics(ctx context.Context, address string) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening for metrics on %s: %w", address, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	h := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, WriteTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	if err := h.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics on %s: %w", address, err)
	}
	return ctx.Err()
}

// sourceMetrics say how the sources are doing.
type sourceMetrics struct {
	sources                                            func() []Source
	up, lag, reads, failures, recorded, known, skipped *prometheus.Desc
}

func newSourceMetrics(sources func() []Source) *sourceMetrics {
	each := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("retrace_source_"+name, help, []string{"source", "kind", "namespace"}, nil)
	}
	return &sourceMetrics{
		sources:  sources,
		up:       each("up", "1 if the last read came to its end."),
		lag:      each("lag_seconds", "How long ago the source was last read to its end; absent before the first time."),
		reads:    each("reads_total", "Reads that came to their end."),
		failures: each("failures_total", "Reads that failed."),
		recorded: each("recorded_total", "Facts recorded that were new."),
		known:    each("known_total", "Facts read that the ledger had already."),
		skipped:  each("skipped_total", "Objects of which no fact could be made."),
	}
}

// Describe implements prometheus.Collector.
func (m *sourceMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.up, m.lag, m.reads, m.failures, m.recorded, m.known, m.skipped} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *sourceMetrics) Collect(out chan<- prometheus.Metric) {
	now := time.Now()
	for _, s := range m.sources() {
		tell := func(d *prometheus.Desc, t prometheus.ValueType, v float64) {
			out <- prometheus.MustNewConstMetric(d, t, v, s.Source, s.Kind, s.Namespace)
		}
		up := 0.0
		if s.Reads > 0 && s.Err == nil && s.Stopped == nil {
			up = 1
		}
		tell(m.up, prometheus.GaugeValue, up)
		if !s.Seen.IsZero() {
			tell(m.lag, prometheus.GaugeValue, now.Sub(s.Seen).Seconds())
		}
		tell(m.reads, prometheus.CounterValue, float64(s.Reads))
		tell(m.failures, prometheus.CounterValue, float64(s.Failures))
		tell(m.recorded, prometheus.CounterValue, float64(s.Recorded))
		tell(m.known, prometheus.CounterValue, float64(s.Duplicates))
		tell(m.skipped, prometheus.CounterValue, float64(s.Skipped))
	}
}
