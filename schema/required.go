package schema

import (
	"regexp"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// This file holds statements that somebody hands in to what the specifications
// of their predicates ask for, where facts can be read without it. What the
// ledger holds already is read without: a statement that was taken once stays
// readable.

// Predicate types that are only held to their specifications.
const (
	VSAv02   = "https://slsa.dev/verification_summary/v0.2"
	VSAv01   = "https://slsa.dev/verification_summary/v0.1"
	SCAIv03  = "https://in-toto.io/attestation/scai/v0.3"
	SCAIv02  = "https://in-toto.io/attestation/scai/attribute-report/v0.2"
	scaiV02b = "https://in-toto.io/attestation/scai/attribute-report/v0.3" // as some generators spell v0.3
)

// required refuses a statement whose predicate lacks what its specification
// requires.
func required(s Statement) error {
	switch s.PredicateType {
	case ProvenanceV1:
		return requires(s, func(p *struct {
			BuildDefinition struct {
				ExternalParameters jsontext.Value `json:"externalParameters"`
			} `json:"buildDefinition"`
		}) error {
			if k := p.BuildDefinition.ExternalParameters.Kind(); k != '{' {
				return wantObject("buildDefinition.externalParameters", k)
			}
			return nil
		})
	case VSAv1:
		return requires(s, func(p *struct {
			Policy         *Descriptor    `json:"policy"`
			VerifiedLevels jsontext.Value `json:"verifiedLevels"`
		}) error {
			switch {
			case p.Policy == nil:
				return fieldErrorf("policy", "missing")
			case p.Policy.URI == "" && len(p.Policy.Digest) == 0:
				return fieldErrorf("policy.uri", "missing; it says which policy was applied")
			case p.VerifiedLevels == nil:
				return fieldErrorf("verifiedLevels", "missing; it is an array, empty where nothing was reached")
			}
			return under("policy.digest", p.Policy.Digest.check())
		})
	case SCAIv03, SCAIv02, scaiV02b:
		return requires(s, func(p *scai) error { return p.check() })
	}
	return nil
}

// placeholder matches what a template leaves to be filled in.
var placeholder = regexp.MustCompile(`\{\{.*?\}\}|\$\{.*?\}`)

// filledIn refuses a statement that is a template: one in which something that
// identifies who, what or where is still a placeholder.
func filledIn(s Statement, f *Facts) error {
	check := func(field, value string) error {
		if found := placeholder.FindString(value); found != "" {
			return fieldErrorf(field, "%q was not filled in: the document is a template", clip(found))
		}
		return nil
	}
	for i, d := range s.Subject {
		field := "subject." + strconv.Itoa(i)
		if err := check(field+".name", d.Name); err != nil {
			return err
		}
		if err := check(field+".uri", d.URI); err != nil {
			return err
		}
	}
	if err := check("predicateType", s.PredicateType); err != nil {
		return err
	}
	if f.Step != nil {
		for _, c := range []struct{ what, value string }{{"builder", f.Step.Builder}, {"build type", f.Step.BuildType}, {"run", f.Step.Run}} {
			if err := check("predicate", c.value); err != nil {
				return fieldErrorf("predicate", "the %s is %q, which was not filled in: the document is a template", c.what, clip(c.value))
			}
		}
	}
	for _, r := range f.Resources {
		if placeholder.MatchString(r.URI) {
			return fieldErrorf("predicate", "names the location %q, which was not filled in: the document is a template", clip(r.URI))
		}
	}
	return nil
}

// requires decodes the predicate of s and has it checked.
func requires[T any](s Statement, check func(*T) error) error {
	p := new(T)
	if err := DecodePredicate(s, false, p); err != nil {
		return err
	}
	return under("predicate", check(p))
}

func wantObject(field string, k jsontext.Kind) error {
	if k == 0 {
		return fieldErrorf(field, "missing")
	}
	return fieldErrorf(field, "a JSON %s is not allowed here; want an object", kindName(k))
}

// scai is an in-toto attribute report (in-toto/attestation, predicates/scai.md).
type scai struct {
	Attributes []struct {
		Attribute string      `json:"attribute"`
		Target    *Descriptor `json:"target"`
		Evidence  *Descriptor `json:"evidence"`
	} `json:"attributes"`
	Producer *Descriptor `json:"producer"`
}

func (p *scai) check() error {
	if len(p.Attributes) == 0 {
		return fieldErrorf("attributes", "missing or empty")
	}
	for i, a := range p.Attributes {
		field := "attributes." + strconv.Itoa(i)
		if a.Attribute == "" {
			return fieldErrorf(field+".attribute", "missing")
		}
		if err := checkIfThere(field+".target", a.Target); err != nil {
			return err
		}
		if err := checkIfThere(field+".evidence", a.Evidence); err != nil {
			return err
		}
	}
	return checkIfThere("producer", p.Producer)
}

func checkIfThere(field string, d *Descriptor) error {
	if d == nil {
		return nil
	}
	return under(field, d.check())
}

// vsaV0 is a SLSA Verification Summary before v1, which spells its fields in
// another way.
type vsaV0 struct {
	Verifier           Verifier   `json:"verifier"`
	TimeVerified       time.Time  `json:"time_verified"`
	ResourceURI        string     `json:"resource_uri"`
	Policy             Descriptor `json:"policy"`
	VerificationResult string     `json:"verification_result"`
	PolicyLevel        string     `json:"policy_level"`
}

func (v *vsaV0) check() error {
	switch {
	case v.Verifier.ID == "":
		return fieldErrorf("verifier.id", "missing")
	case v.ResourceURI == "":
		return fieldErrorf("resource_uri", "missing")
	case v.VerificationResult != "PASSED" && v.VerificationResult != "FAILED":
		return fieldErrorf("verification_result", "%q is neither PASSED nor FAILED", clip(v.VerificationResult))
	}
	return nil
}
