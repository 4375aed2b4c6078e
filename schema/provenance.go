package schema

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Predicate types that retrace reads and that are not its own.
const (
	ProvenanceV1  = "https://slsa.dev/provenance/v1"
	ProvenanceV02 = "https://slsa.dev/provenance/v0.2"
	ProvenanceV01 = "https://slsa.dev/provenance/v0.1"
	VSAv1         = "https://slsa.dev/verification_summary/v1"
	LinkV03       = "https://in-toto.io/attestation/link/v0.3"
)

// RunBuildType is the SLSA build type of a step recorded by `retrace run`.
// Its external parameters are a RunParameters.
const RunBuildType = "https://github.com/retrace-ledger/retrace/run/v1"

// RunBuilder is the builder ID of a step recorded by `retrace run`.
const RunBuilder = "https://github.com/retrace-ledger/retrace/run"

// StepBuildType is the SLSA build type of a step that a watcher saw in a system
// that runs pipelines. Its external parameters are a StepParameters.
const StepBuildType = "https://github.com/retrace-ledger/retrace/step/v1"

// StepParameters are the external parameters of a step that a watcher saw. They
// hold what the system says of the step, and nothing of how it was seen.
type StepParameters struct {
	Engine    string `json:"engine"`              // what ran it, such as "argo"
	Namespace string `json:"namespace,omitempty"` // where, in the engine's words
	Pipeline  string `json:"pipeline,omitempty"`  // what it is a step of
	Task      string `json:"task,omitempty"`      // which step of it; empty for the whole run
	Parent    string `json:"parent,omitempty"`    // run ID of the run that this is a step of
	Status    string `json:"status"`              // in the engine's words, such as "Succeeded"
	// Replaces is the key of the run as an earlier statement described it, before
	// more became known. This statement takes the place of that one.
	Replaces Key `json:"replaces,omitempty"`
	// AttestedBy are the digests of the predicates, in canonical JSON, by which
	// others attest this run without naming it (SLSA before v1): the watcher saw them
	// at the run.
	AttestedBy []Key `json:"attestedBy,omitempty"`
	// Reused is set when the engine did not run the step and took what an
	// earlier one had left: the key under which it found it.
	Reused string `json:"reused,omitempty"`
	// Skipped are steps of a whole run that did not run, by condition or since it
	// had failed.
	Skipped     []string          `json:"skipped,omitempty"`
	Argv        []string          `json:"argv,omitempty"`
	Parameters  map[string]string `json:"parameters,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	Secrets     []string          `json:"secrets,omitempty"`  // names whose values are withheld
	Platform    string            `json:"platform,omitempty"` // os/arch
}

// Provenance is a SLSA Provenance v1 predicate: one step, what it used and how
// it was run (slsa-framework/slsa, provenance v1). Extension fields begin with
// "retrace_".
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition says what was asked for and what it depended on.
type BuildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   jsontext.Value `json:"externalParameters"`
	InternalParameters   jsontext.Value `json:"internalParameters,omitempty"`
	ResolvedDependencies []Descriptor   `json:"resolvedDependencies,omitempty"`
}

// RunDetails says who ran the step, when, and what came of it beside the
// subjects.
type RunDetails struct {
	Builder    Builder      `json:"builder"`
	Metadata   Metadata     `json:"metadata,omitzero"`
	Byproducts []Descriptor `json:"byproducts,omitempty"`
}

// Builder is who ran the step.
type Builder struct {
	ID                  string            `json:"id"`
	Version             map[string]string `json:"version,omitempty"`
	BuilderDependencies []Descriptor      `json:"builderDependencies,omitempty"`
}

// Metadata dates the step. Times are the builder's claim.
type Metadata struct {
	InvocationID string    `json:"invocationId,omitempty"`
	StartedOn    time.Time `json:"startedOn,omitzero"`
	FinishedOn   time.Time `json:"finishedOn,omitzero"`
}

// RunParameters are the external parameters of a step recorded by
// `retrace run`: all that is needed to run it again beside its dependencies.
type RunParameters struct {
	// Argv is the command as given. Argv[0] is what was typed; the resolved
	// program is the dependency with the role "tool".
	Argv []string `json:"argv"`
	// Dir is the working directory relative to the working root, "." for the
	// root itself.
	Dir string `json:"dir"`
	// Parameters were given with --param.
	Parameters map[string]string `json:"parameters,omitempty"`
	// Environment holds the allowed variables that were set.
	Environment map[string]string `json:"environment,omitempty"`
	// Secrets names variables that were passed to the command and whose values
	// are withheld.
	Secrets []string `json:"secrets,omitempty"`
	// Inputs and Outputs are the declared paths, relative to the working root
	// with forward slashes, or absolute where they lie outside it.
	Inputs  []string `json:"inputs,omitempty"`
	Outputs []string `json:"outputs,omitempty"`
	// Platform is GOOS/GOARCH of the machine.
	Platform string `json:"platform"`
	// Parent is the run ID of the enclosing run, if any.
	Parent string `json:"parent,omitempty"`
}

// Roles of a dependency of a recorded step, in its annotation "role".
const (
	RoleInput      = "input"   // read by the step
	RoleCode       = "code"    // the commit checked out in the working root
	RoleChanges    = "changes" // uncommitted changes on top of that commit
	RoleImage      = "image"   // the image that the step ran in
	RoleTool       = "tool"    // the program that argv[0] resolved to
	RoleParams     = "parameters"
	RoleDefinition = "definition" // how the engine was told to do the step, by its canonical JSON
	RoleReused     = "reused"     // what an earlier step had left and the engine took instead of running this one
	RoleOutput     = "output"     // of a byproduct: written by the step, and known by its location alone
)

// Annotations of descriptors in steps that retrace records.
const (
	AnnotationRole     = "role"     // one of the roles
	AnnotationPath     = "path"     // path relative to the working root
	AnnotationProducer = "producer" // run ID of the step that made this input
	AnnotationContent  = "content"  // where the bytes are: "store", or "host:NAME" when they never left that host
	AnnotationType     = "type"     // "file" or "folder"
	AnnotationSize     = "size"     // bytes, as a decimal string
	AnnotationKind     = "kind"     // kind of the resource, where its digest does not tell
	AnnotationSnapshot = "snapshot" // handle in the content store
	AnnotationLocation = "location" // of a step that a watcher saw: where the version that the URI names is
	AnnotationAliases  = "aliases"  // of the same: other locations of what is there, as a list
	AnnotationExec     = "exec"     // "true" of a file that its owner may execute, which its digest does not say
)

// Byproducts of a recorded step: JSON values carried inline.
const (
	ByproductExit    = "retrace_exitStatus" // number; 128+n for signal n
	ByproductMetrics = "retrace_metrics"    // object of numbers and strings
	ByproductGaps    = "retrace_gaps"       // array of GapFact
)

// GapFact is something that the step's own recorder saw standing in the way of
// restoring or reproducing it.
type GapFact struct {
	Rule   string `json:"rule"`   // an ID of docs/gaps.md, such as "dirty-tree"
	Detail string `json:"detail"` // which file, which input
}

// RunSubject is the first subject of a recorded step: the run itself. Its
// digest is that of the predicate, so that a run that failed or left nothing
// behind is still a subject.
func RunSubject(runID string, p Provenance) (Descriptor, error) {
	raw, err := Canonical(p)
	if err != nil {
		return Descriptor{}, err
	}
	return Descriptor{Name: runPrefix + runID, Digest: DigestSet{SHA256: BytesKey(raw).Hex()}}, nil
}

const runPrefix = "run:"

func (p *Provenance) check() error {
	if p.BuildDefinition.BuildType == "" {
		return fieldErrorf("buildDefinition.buildType", "missing")
	}
	if p.RunDetails.Builder.ID == "" {
		return fieldErrorf("runDetails.builder.id", "missing")
	}
	for i, d := range p.BuildDefinition.ResolvedDependencies {
		if !d.identified() && d.Name != "" {
			continue // a named dependency without digest or location: shown, joins nothing
		}
		if err := d.check(); err != nil {
			return under("buildDefinition.resolvedDependencies."+strconv.Itoa(i), err)
		}
	}
	for i, d := range p.RunDetails.Byproducts {
		if err := d.Digest.check(); err != nil {
			return under("runDetails.byproducts."+strconv.Itoa(i)+".digest", err)
		}
	}
	return nil
}

// VSA is a SLSA Verification Summary v1 predicate: the verdict of an audit.
type VSA struct {
	Verifier           Verifier       `json:"verifier"`
	TimeVerified       time.Time      `json:"timeVerified,omitzero"`
	ResourceURI        string         `json:"resourceUri"`
	Policy             Descriptor     `json:"policy"`
	InputAttestations  []Descriptor   `json:"inputAttestations,omitempty"`
	VerificationResult string         `json:"verificationResult"` // PASSED or FAILED
	VerifiedLevels     []string       `json:"verifiedLevels"`
	DependencyLevels   map[string]int `json:"dependencyLevels,omitempty"`
	SLSAVersion        string         `json:"slsaVersion,omitempty"`
	// Reasons is retrace's extension: each finding of the audit in words.
	Reasons []string `json:"retrace_reasons,omitempty"`
	// Replay is retrace's extension: the report of a replay of a whole log, as
	// package verify/replay writes it.
	Replay jsontext.Value `json:"retrace_replay,omitempty"`
}

// Verifier is who made a verification summary.
type Verifier struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

func (v *VSA) check() error {
	switch {
	case v.Verifier.ID == "":
		return fieldErrorf("verifier.id", "missing")
	case v.ResourceURI == "":
		return fieldErrorf("resourceUri", "missing")
	case v.VerificationResult != "PASSED" && v.VerificationResult != "FAILED":
		return fieldErrorf("verificationResult", "%q is neither PASSED nor FAILED", clip(v.VerificationResult))
	}
	return nil
}
