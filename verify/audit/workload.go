package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/retrace-ledger/retrace/schema"
)

// The checks of workloads, beside those of their images.
const (
	CheckState    = "state"    // what runs is what the ledger saw run last
	CheckTag      = "tag"      // a tag that is asked for points at what runs
	CheckModel    = "model"    // the bytes of a model that is served, and what made them
	CheckManifest = "manifest" // the object is as the manifest has it
	CheckCommit   = "commit"   // the commit that it was deployed from is on the branch
)

// Workload is something that runs in a cluster, or ran, to be audited.
type Workload struct {
	schema.Deployment
	// Found is what whoever asks has checked by other means, such as the manifest.
	Found []Reason
	// State is the digest of the recorded state that this is; empty if it is none.
	State schema.Key
}

// Models says what is recorded about models. An auditor without it checks none.
type Models interface {
	// Model returns what is recorded about what is at uri. Nothing being recorded
	// is a record without entries.
	Model(ctx context.Context, uri string) (ModelRecord, error)
}

// ModelRecord is what a ledger holds about a model at a place.
type ModelRecord struct {
	Digest  schema.Key // empty where nobody digested its bytes
	Entries []Entry    // that say what is there
	Origins []Origin   // steps that made it, strongest evidence first
	Gaps    []string
	Said    []string // in which people vouch for it, or withdraw that
}

// WorkloadVerdict is what was found about one workload.
type WorkloadVerdict struct {
	Workload string     `json:"workload"`        // CLUSTER/NAMESPACE/KIND/NAME
	State    schema.Key `json:"state,omitempty"` // as recorded
	Result   Result     `json:"result"`          // the worst of all
	Reasons  []Reason   `json:"reasons"`         // about the workload itself
	Images   []Verdict  `json:"images"`          // one for each container and digest
}

// Workload judges one workload: each image that a container ran, each model that is
// served, and what the caller found. An error says that the auditor cannot apply its
// policy at all.
func (a *Auditor) Workload(ctx context.Context, w Workload) (WorkloadVerdict, error) {
	v := WorkloadVerdict{Workload: w.Workload, State: w.State, Reasons: []Reason{}, Images: []Verdict{}}
	if err := a.check(); err != nil {
		return v, err
	}
	own := Verdict{Reasons: w.Found}
	for _, c := range w.Containers {
		image, err := a.container(ctx, c)
		if err != nil {
			return v, err
		}
		v.Images = append(v.Images, image)
	}
	if len(w.Containers) == 0 {
		own.add(CheckResolved, Unknown, -1, "nobody says which images it runs")
	}
	for _, m := range w.Models {
		if a.Models != nil {
			a.model(ctx, &own, m.URI)
		}
	}
	if err := ctx.Err(); err != nil {
		return v, err
	}
	v.Reasons = append(v.Reasons, own.Reasons...)
	v.Result = overall(v.Reasons)
	for _, image := range v.Images {
		if image.Result == Fail || v.Result == Pass {
			v.Result = image.Result
		}
	}
	return v, nil
}

// container judges the image that a container ran. What its tag points at now says
// nothing of that.
func (a *Auditor) container(ctx context.Context, c schema.RunningContainer) (Verdict, error) {
	v := Verdict{Ref: c.Image, Container: c.Name}
	image, err := ParseImage(c.Image)
	if err != nil {
		v.add(CheckResolved, Unknown, -1, "%v", err)
		v.Result = Unknown
		return v, nil
	}
	digest := schema.Key(c.Digest)
	switch {
	case c.Digest == "" && image.Digest != "":
		v.add(CheckResolved, Note, -1, "nothing runs yet; it is asked for by digest")
		digest = image.Digest
	case c.Digest == "":
		v.add(CheckResolved, Unknown, -1, "the cluster does not say which image runs; where the tag points now is no answer")
		v.Result = Unknown
		return v, nil
	}
	manifest, err := a.Ledger.Manifest(ctx, digest)
	if err != nil {
		v.add(CheckResolved, Unknown, -1, "the ledger could not be asked: %v", err)
		v.Result = Unknown
		return v, nil
	}
	if v.Digest = manifest; manifest != digest {
		v.add(CheckResolved, Pass, -1, "runs %s, the configuration of %s", digest, manifest)
	} else {
		v.add(CheckResolved, Pass, -1, "runs %s", digest)
	}
	if image.Digest != "" && image.Digest != v.Digest {
		v.add(CheckResolved, Note, -1, "asked for as %s, which may be an index of several", image.Digest)
	}
	if image.Digest == "" {
		a.tag(ctx, c.Image, &v)
	}
	a.recorded(ctx, &v)
	a.signed(ctx, image, &v)
	v.Result = overall(v.Reasons)
	return v, nil
}

// tag looks whether a container that asks for its image by tag would be given the
// same again. Where it would not, what runs holds until its next pod starts.
func (a *Auditor) tag(ctx context.Context, ref string, v *Verdict) {
	now, found, err := a.Resolver.Resolve(ctx, ref)
	switch {
	case err != nil:
		v.add(CheckTag, Note, -1, "asked for by tag, and where that points now could not be asked: %v", err)
	case !found:
		v.add(CheckTag, Unknown, -1, "asked for by a tag that is not there any more: its next pod cannot start")
	case now != v.Digest:
		v.add(CheckTag, Unknown, -1, "asked for by a tag that points at %s now: its next pod runs something else", now)
	default:
		v.add(CheckTag, Note, -1, "asked for by tag, which points at what runs; a digest could not be moved")
	}
}

// Model judges what is at a place that manifests have a model served from.
func (a *Auditor) Model(ctx context.Context, uri string) Verdict {
	v := Verdict{Ref: uri}
	a.model(ctx, &v, uri)
	v.Result = overall(v.Reasons)
	return v
}

// model judges what is served from a place.
func (a *Auditor) model(ctx context.Context, v *Verdict, uri string) {
	r, err := a.Models.Model(ctx, uri)
	if err != nil {
		v.add(CheckModel, Unknown, -1, "%s: the ledger could not be asked: %v", uri, err)
		return
	}
	entry, withdrawn := int64(-1), ""
	for _, e := range r.Entries {
		if e.Withdrawn != "" {
			withdrawn = e.Withdrawn
			continue
		}
		if e.Evidence.Trusted() {
			entry = e.Index
		}
	}
	switch {
	case len(r.Entries) == 0:
		v.add(CheckModel, Fail, -1, "%s: the ledger has no record of what is there", uri)
	case withdrawn != "":
		v.add(CheckModel, Fail, entry, "%s: withdrawn by %s", uri, withdrawn)
	case r.Digest == "":
		v.add(CheckModel, Unknown, entry, "%s: its bytes were never digested, so that nobody can tell whether they are those that were made", uri)
	case len(r.Origins) == 0:
		v.add(CheckModel, Fail, entry, "%s: no recorded step made %s, which is there", uri, r.Digest)
	case entry < 0 || r.Origins[0].Evidence == schema.Claimed:
		v.add(CheckModel, Unknown, r.Origins[0].Entry, "%s: %s, %s: only a claim", uri, r.Digest, r.Origins[0])
	default:
		v.add(CheckModel, Pass, r.Origins[0].Entry, "%s: %s, %s", uri, r.Digest, r.Origins[0])
	}
	for _, said := range r.Said {
		v.add(CheckModel, Note, -1, "%s", said)
	}
	for _, g := range r.Gaps {
		v.add(CheckGaps, Note, -1, "%s", g)
	}
}

// WorkloadStatement is the verdict as a SLSA Verification Summary v1 about the
// recorded state of the workload, to be signed by whoever made the audit. ok is
// false for UNKNOWN, and where what runs is not a state that was recorded.
func (p Policy) WorkloadStatement(v WorkloadVerdict, verifier schema.Verifier, at time.Time) (s schema.Statement, ok bool, err error) {
	if v.State == "" || v.Result != Pass && v.Result != Fail {
		return schema.Statement{}, false, nil
	}
	policy, err := p.descriptor()
	if err != nil {
		return schema.Statement{}, false, err
	}
	name := schema.NameWorkload + ":" + v.Workload
	vsa := schema.VSA{
		Verifier: verifier, TimeVerified: at.UTC().Truncate(time.Second), ResourceURI: name, Policy: policy,
		VerificationResult: "PASSED", VerifiedLevels: p.levels(),
	}
	if v.Result == Fail {
		vsa.VerificationResult, vsa.VerifiedLevels = "FAILED", []string{levelFailed}
	}
	add := func(about string, reasons []Reason) {
		for _, r := range reasons {
			vsa.Reasons = append(vsa.Reasons, fmt.Sprintf("%s%s: %s: %s", about, r.Check, r.Result, r.Detail))
		}
	}
	add("", v.Reasons)
	for _, image := range v.Images {
		add(image.Container+" "+image.Ref+": ", image.Reasons)
	}
	s, err = schema.NewStatement(schema.VSAv1, vsa, schema.Descriptor{Name: name, Digest: schema.DigestSet{v.State.Algorithm(): v.State.Hex()}})
	if err != nil {
		return s, false, fmt.Errorf("stating the verdict on %s: %w", v.Workload, err)
	}
	return s, true, nil
}
