package replay

import (
	"fmt"
	"time"

	"github.com/retrace-ledger/retrace/schema"
	"github.com/retrace-ledger/retrace/verify"
)

// Policy is what a log must be to pass, beside whole. It is named, by digest,
// in the statement of a verdict.
type Policy struct {
	Key string `json:"key"` // NAME+HASH of the log key
	// Quorum is the C2SP policy whose witnesses must have cosigned; "" for none.
	Quorum string `json:"quorum,omitempty"`
	// Lineage asks that the entries give an index, and the one that the ledger
	// has where it can be looked at.
	Lineage bool `json:"lineage,omitempty"`
}

// policyURI names the rules that this package applies; Policy is their
// parameters.
const policyURI = "https://github.com/retrace-ledger/retrace/replay/v1"

// Levels that a passed replay states (SLSA VSA v1, verifiedLevels: names of
// one's own do not begin with SLSA_).
const (
	LevelReplayed  = "RETRACE_REPLAYED"
	LevelLineage   = "RETRACE_LINEAGE"
	LevelWitnessed = "RETRACE_WITNESSED"
	levelFailed    = "FAILED"
)

// Subject is the log at one size: its origin, with the SHA-256 of the text that
// a checkpoint of it signs (C2SP tlog-checkpoint), which anyone who has origin,
// size and root can compute.
func Subject(c verify.Checkpoint) schema.Descriptor {
	text := verify.FormatCheckpoint(c.Origin, c.Size, c.Root)
	return schema.Descriptor{
		Name: c.Origin, MediaType: "text/plain",
		Digest: schema.DigestSet{schema.SHA256: schema.BytesKey([]byte(text)).Hex()},
	}
}

// Statement is the verdict on a log as of checkpoint, as a SLSA Verification
// Summary v1, to be signed by whoever replayed it, at the given time by
// verifier (a URI). The report is in it whole, under retrace_replay, and the
// checkpoint with its signatures is its input.
func (p Policy) Statement(r Report, checkpoint verify.Checkpoint, verifier schema.Verifier, at time.Time) (schema.Statement, error) {
	raw, err := schema.Canonical(p)
	if err != nil {
		return schema.Statement{}, err
	}
	report, err := schema.Canonical(r)
	if err != nil {
		return schema.Statement{}, err
	}
	vsa := schema.VSA{
		Verifier:     verifier,
		TimeVerified: at.UTC().Truncate(time.Second),
		ResourceURI:  "retrace+log://" + checkpoint.Origin,
		Policy: schema.Descriptor{
			URI: policyURI, Content: raw, MediaType: "application/json",
			Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()},
		},
		InputAttestations: []schema.Descriptor{{
			Name: "checkpoint", Content: checkpoint.Note, MediaType: "text/plain",
			Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(checkpoint.Note).Hex()},
		}},
		VerificationResult: "PASSED",
		VerifiedLevels:     p.levels(),
		Replay:             report,
	}
	if !r.OK() {
		vsa.VerificationResult, vsa.VerifiedLevels = "FAILED", []string{levelFailed}
	}
	for _, f := range r.Findings {
		vsa.Reasons = append(vsa.Reasons, f.String())
	}
	s, err := schema.NewStatement(schema.VSAv1, vsa, Subject(checkpoint))
	if err != nil {
		return schema.Statement{}, fmt.Errorf("stating the verdict on %s: %w", checkpoint.Origin, err)
	}
	return s, nil
}

func (p Policy) levels() []string {
	levels := []string{LevelReplayed}
	if p.Lineage {
		levels = append(levels, LevelLineage)
	}
	if p.Quorum != "" {
		levels = append(levels, LevelWitnessed)
	}
	return levels
}

// String is the finding in a line.
func (f Finding) String() string {
	if f.Entry < 0 {
		return fmt.Sprintf("%s: %s", f.Kind, f.Problem)
	}
	return fmt.Sprintf("entry %d: %s: %s", f.Entry, f.Kind, f.Problem)
}
