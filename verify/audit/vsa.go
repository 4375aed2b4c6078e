package audit

import (
	"fmt"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// Policy is what an image must be to pass, beside resolved and recorded. It is
// named, by digest, in the statement of a verdict.
type Policy struct {
	// Key is the ID of the key that must have signed the image; "" for none.
	Key string `json:"key,omitempty"`
	// Origin asks that what the image was built from is recorded, and not only
	// claimed.
	Origin bool `json:"origin,omitempty"`
}

// policyURI names the rules that this package applies; Policy is their
// parameters.
const policyURI = "https://github.com/retrace-ledger/retrace/audit/v1"

// Levels that a passed audit states (SLSA VSA v1, verifiedLevels: names of
// one's own do not begin with SLSA_).
const (
	LevelRecorded = "RETRACE_RECORDED"
	LevelOrigin   = "RETRACE_ORIGIN"
	LevelSigned   = "RETRACE_SIGNED"
)

// levelFailed says that the policy was applied and not met.
const levelFailed = "FAILED"

// Statement is the verdict as a SLSA Verification Summary v1 about the image,
// to be signed by whoever made the audit, at the given time by verifier (a
// URI). ok is false for a verdict of UNKNOWN: the summary knows only PASSED
// and FAILED, and what could not be checked is neither. A verdict about no
// digest, such as that there is no such image, has no subject and none either.
func (p Policy) Statement(v Verdict, verifier schema.Verifier, at time.Time) (s schema.Statement, ok bool, err error) {
	if v.Digest == "" || v.Result != Pass && v.Result != Fail {
		return schema.Statement{}, false, nil
	}
	image, err := ParseImage(v.Ref)
	if err != nil {
		return schema.Statement{}, false, fmt.Errorf("stating the verdict on %s: %w", v.Ref, err)
	}
	policy, err := p.descriptor()
	if err != nil {
		return schema.Statement{}, false, err
	}
	vsa := schema.VSA{
		Verifier:           verifier,
		TimeVerified:       at.UTC().Truncate(time.Second),
		ResourceURI:        "oci://" + image.full,
		Policy:             policy,
		VerificationResult: "PASSED",
		VerifiedLevels:     p.levels(),
	}
	if v.Result == Fail {
		vsa.VerificationResult, vsa.VerifiedLevels = "FAILED", []string{levelFailed}
	}
	for _, r := range v.Reasons {
		vsa.Reasons = append(vsa.Reasons, fmt.Sprintf("%s: %s: %s", r.Check, r.Result, r.Detail))
	}
	s, err = schema.NewStatement(schema.VSAv1, vsa, schema.Descriptor{
		Name: image.Repository, URI: "oci://" + image.Repository,
		Digest: schema.DigestSet{v.Digest.Algorithm(): v.Digest.Hex()},
	})
	if err != nil {
		return schema.Statement{}, false, fmt.Errorf("stating the verdict on %s: %w", v.Ref, err)
	}
	return s, true, nil
}

// descriptor carries the policy itself, in canonical JSON, so that its digest
// can be checked by whoever reads the statement.
func (p Policy) descriptor() (schema.Descriptor, error) {
	raw, err := schema.Canonical(p)
	if err != nil {
		return schema.Descriptor{}, err
	}
	return schema.Descriptor{
		URI: policyURI, Content: raw, MediaType: "application/json",
		Digest: schema.DigestSet{schema.SHA256: schema.BytesKey(raw).Hex()},
	}, nil
}

// levels are those that an image that passed has.
func (p Policy) levels() []string {
	levels := []string{LevelRecorded}
	if p.Origin {
		levels = append(levels, LevelOrigin)
	}
	if p.Key != "" {
		levels = append(levels, LevelSigned)
	}
	return levels
}
