package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/retrace-ledger/retrace/ledger/witness"
)

// witnessMetrics say how far the ledger's witnesses are.
type witnessMetrics struct {
	status                                 func() witness.Status
	cosigned, age                          *prometheus.Desc
	size, up, requests, failures, alarmsOf *prometheus.Desc
}

func newWitnessMetrics(status func() witness.Status) *witnessMetrics {
	one := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	each := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"witness"}, nil)
	}
	return &witnessMetrics{
		status:   status,
		cosigned: one("retrace_cosigned_size", "Size of the newest checkpoint that the quorum of witnesses cosigned."),
		age:      one("retrace_cosigned_age_seconds", "How long there has been a newer checkpoint without its quorum; 0 if there is none."),
		size:     each("retrace_witness_size", "Size of the newest checkpoint that the witness cosigned."),
		up:       each("retrace_witness_up", "1 if the witness cosigned when it was last asked."),
		requests: each("retrace_witness_requests_total", "Requests to the witness."),
		failures: each("retrace_witness_failures_total", "Offers that the witness did not cosign."),
		alarmsOf: each("retrace_witness_alarms_total", "Claims of the witness, which nobody signed, that the log forked or was rolled back."),
	}
}

// Describe implements prometheus.Collector.
func (m *witnessMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.cosigned, m.age, m.size, m.up, m.requests, m.failures, m.alarmsOf} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *witnessMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(m.cosigned, float64(s.Size))
	gauge(m.age, s.Behind.Seconds())
	for _, w := range s.Members {
		up := 0.0
		if w.Err == nil && w.Requests > 0 {
			up = 1
		}
		gauge(m.size, float64(w.Size), w.Name)
		gauge(m.up, up, w.Name)
		counter(m.requests, w.Requests, w.Name)
		counter(m.failures, w.Failures, w.Name)
		counter(m.alarmsOf, w.Alarms, w.Name)
	}
}
