package tekton

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/schema"
)

// signature begins the annotations in which Chains keeps what it signed, in
// base64: for formats of in-toto that is an envelope (DSSE), which holds all that
// stands in the annotation with the payload (tektoncd/chains, docs/config.md,
// storage "tekton").
const signature = "chains.tekton.dev/signature-"

// maxEnvelopes is how many attestations of one run are read.
const maxEnvelopes = 16

// attested are the envelopes in which Chains attests the run, and of those that
// name no run (SLSA v0.2, its default) the digests of their predicates: the
// watcher says then that they are about this one. Annotations that hold
// something else are not read.
func (o *object) attested() ([]schema.Envelope, []schema.Key, error) {
	var envelopes []schema.Envelope
	var unnamed []schema.Key
	for _, name := range slices.Sorted(maps.Keys(o.Metadata.Annotations)) {
		if !strings.HasPrefix(name, signature) || len(envelopes) == maxEnvelopes {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(o.Metadata.Annotations[name])
		if err != nil {
			continue
		}
		env, err := schema.ParseEnvelope(raw)
		if err != nil {
			continue
		}
		s, err := env.Statement()
		if err != nil {
			continue
		}
		f, err := s.Facts()
		if err != nil || f.Step == nil || f.Step.Run != "" && f.Step.Run != o.Metadata.UID {
			continue // of another run, which an annotation can be copied from
		}
		envelopes = append(envelopes, env)
		if f.Step.Run == "" {
			unnamed = append(unnamed, f.Step.Predicate)
		}
	}
	return envelopes, unnamed, nil
}
