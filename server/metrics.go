package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/retrace-ledger/retrace/schema"
)

// metrics are the server's, under retrace_.
type metrics struct {
	registry *prometheus.Registry
	append   prometheus.Histogram
	batch    prometheus.Histogram
	queries  *prometheus.HistogramVec
	failed   *prometheus.CounterVec
	rejected *prometheus.CounterVec
	requests *prometheus.CounterVec
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		append: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "retrace_append_seconds", Help: "Time until a batch was durable under a signed checkpoint.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "retrace_batch_envelopes", Help: "Envelopes in a batch.", Buckets: prometheus.ExponentialBuckets(1, 4, 7),
		}),
		queries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "retrace_query_seconds", Help: "Time to answer a field of Query or Mutation, with all below it.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}, []string{"field"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "retrace_query_errors_total", Help: "Fields of Query or Mutation that were answered with an error.",
		}, []string{"field"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "retrace_rejected_total", Help: "Requests that were refused, by reason.",
		}, []string{"reason"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "retrace_http_requests_total", Help: "Requests by route and status.",
		}, []string{"route", "code"}),
	}
	entries := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "retrace_entries", Help: "Entries of the ledger."},
		func() float64 { return float64(s.ledger.Size()) })
	followed := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "retrace_lineage_entries", Help: "Entries that the graph has followed."},
		func() float64 { return float64(s.graph.Size()) })
	reads := prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "retrace_lineage_reads_total", Help: "Reads of the graph's store that answers needed."},
		func() float64 { return float64(s.graph.Reads()) })
	runs := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "retrace_openlineage_runs", Help: "Runs of OpenLineage whose events are kept, as they have not ended or more may come."},
		func() float64 { return float64(s.runs.count()) })
	m.registry.MustRegister(runs, m.append, m.batch, m.queries, m.failed, m.rejected, m.requests, entries, followed, reads,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.opt.Sources != nil {
		m.registry.MustRegister(newSourceMetrics(s.opt.Sources))
	}
	if s.opt.Witnesses != nil {
		m.registry.MustRegister(newWitnessMetrics(s.opt.Witnesses))
	}
	return m
}

func (m *metrics) query(field string, took time.Duration, failed bool) {
	m.queries.WithLabelValues(field).Observe(took.Seconds())
	if failed {
		m.failed.WithLabelValues(field).Inc()
	}
}

// counted counts the requests of a route.
func (m *metrics) counted(route string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() { m.requests.WithLabelValues(route, strconv.Itoa(sw.status)).Inc() }()
		next.ServeHTTP(sw, r)
	})
}

// statusWriter remembers the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController through.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// measuredLedger is a ledger whose appends are timed.
type measuredLedger struct {
	Ledger
	m *metrics
}

func (s *Server) measured() measuredLedger { return measuredLedger{s.ledger, s.metrics} }

func (l measuredLedger) Append(ctx context.Context, b schema.Batch) (schema.Receipt, error) {
	start := time.Now()
	r, err := l.Ledger.Append(ctx, b)
	if err == nil {
		l.m.append.Observe(time.Since(start).Seconds())
		l.m.batch.Observe(float64(len(b.Envelopes)))
	}
	return r, err
}
