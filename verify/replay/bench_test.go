package replay_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify/replay"
)

// BenchmarkReplay replays a log of statements of a typical size: with
// signatures, with nobody's signature, and of bodies that are withheld, where
// only the tree is left. sha256 hashes the same bytes and does nothing else.
func BenchmarkReplay(b *testing.B) {
	const size = 4096
	made := func(sign, present bool) *world {
		w := newWorld(b)
		for i := range size - 1 {
			s := w.statement(schema.AttestationV1, schema.Attestation{Claim: "approved", Comment: strings.Repeat("because ", 40)}, subject(fmt.Sprint(i)))
			env, err := w.observer.SignStatement(s)
			check(b, err)
			if !sign {
				env, err = schema.NewEnvelope(env.PayloadType, env.Payload)
				check(b, err)
			}
			w.add(env)
			if !present {
				w.withhold(int64(i) + 1)
			}
		}
		return w
	}
	signed := made(true, true)
	bytes := 0
	for _, e := range signed.entries {
		bytes += len(e.Body)
	}
	b.Run("sha256", func(b *testing.B) {
		for b.Loop() {
			for _, e := range signed.entries {
				sha256.Sum256(e.Body)
			}
		}
		report(b, size, bytes)
	})
	for name, w := range map[string]*world{"signed": signed, "unsigned": made(false, true), "withheld": made(true, false)} {
		c := w.checkpoint()
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := replay.New(w.verifier)
				for f, err := range r.Run(b.Context(), w, c, nil) {
					b.Fatal(f, err)
				}
			}
			report(b, size, bytes)
		})
	}
}

func report(b *testing.B, entries, bytes int) {
	perSecond := float64(entries) * float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(perSecond, "entries/s")
	b.ReportMetric(float64(bytes)/float64(entries), "B/entry")
}
