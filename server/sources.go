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
)

// getSources says how each source is doing.
func (s *Server) getSources(w http.ResponseWriter, r *http.Request) {
	states := []client.SourceState{}
	if s.opt.Sources != nil {
		states = append(states, s.opt.Sources()...)
	}
	s.answerJSON(w, r, states)
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
	stop := context.AfterFunc(ctx, func() { _ = h.Close() }) // a scrape can be asked for again
	defer stop()
	if err := h.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics on %s: %w", address, err)
	}
	return ctx.Err()
}

// sourceMetrics say how the sources are doing.
type sourceMetrics struct {
	sources                                            func() []client.SourceState
	up, lag, reads, failures, recorded, known, skipped *prometheus.Desc
}

func newSourceMetrics(sources func() []client.SourceState) *sourceMetrics {
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
	for _, s := range m.sources() {
		tell := func(d *prometheus.Desc, t prometheus.ValueType, v float64) {
			out <- prometheus.MustNewConstMetric(d, t, v, s.Source, s.Kind, s.Namespace)
		}
		up := 0.0
		if s.Reads > 0 && s.Error == "" {
			up = 1
		}
		tell(m.up, prometheus.GaugeValue, up)
		if !s.Seen.IsZero() {
			tell(m.lag, prometheus.GaugeValue, s.LagSeconds)
		}
		tell(m.reads, prometheus.CounterValue, float64(s.Reads))
		tell(m.failures, prometheus.CounterValue, float64(s.Failures))
		tell(m.recorded, prometheus.CounterValue, float64(s.Recorded))
		tell(m.known, prometheus.CounterValue, float64(s.Duplicates))
		tell(m.skipped, prometheus.CounterValue, float64(s.Skipped))
	}
}
