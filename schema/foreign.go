package schema

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// This file reads what other builders write: SLSA Provenance before v1,
// in-toto links, and the parts of SLSA Provenance v1 that a build type defines
// for itself. retrace writes none of it.

// configSource says in SLSA Provenance v0.2 where the build's definition came
// from.
type configSource struct {
	URI        string    `json:"uri"`
	Digest     DigestSet `json:"digest"`
	EntryPoint string    `json:"entryPoint"`
}

// buildMetadata dates a build before SLSA v1. The invocation's name is spelled
// buildInvocationId by the specification and buildInvocationID by in-toto's Go
// library, and so by GitHub's builders.
type buildMetadata struct {
	InvocationID   string    `json:"buildInvocationId"`
	InvocationIDGo string    `json:"buildInvocationID"`
	StartedOn      time.Time `json:"buildStartedOn"`
	FinishedOn     time.Time `json:"buildFinishedOn"`
}

func (m buildMetadata) run() string {
	if m.InvocationID != "" {
		return m.InvocationID
	}
	return m.InvocationIDGo
}

// provenanceV02 is SLSA Provenance v0.2 (slsa.dev/provenance/v0.2).
type provenanceV02 struct {
	Builder    Builder `json:"builder"`
	BuildType  string  `json:"buildType"`
	Invocation struct {
		ConfigSource configSource   `json:"configSource"`
		Parameters   jsontext.Value `json:"parameters"`
	} `json:"invocation"`
	Metadata  buildMetadata `json:"metadata"`
	Materials []Descriptor  `json:"materials"`
}

// provenanceV01 is SLSA Provenance v0.1 (slsa.dev/provenance/v0.1), which
// Google Cloud Build issues.
type provenanceV01 struct {
	Builder Builder `json:"builder"`
	Recipe  struct {
		Type              string         `json:"type"`
		DefinedInMaterial *int           `json:"definedInMaterial"`
		EntryPoint        string         `json:"entryPoint"`
		Arguments         jsontext.Value `json:"arguments"`
	} `json:"recipe"`
	Metadata  buildMetadata `json:"metadata"`
	Materials []Descriptor  `json:"materials"`
}

// link is an in-toto link v0.3 predicate.
type link struct {
	Name      string       `json:"name"`
	Command   []string     `json:"command"`
	Materials []Descriptor `json:"materials"`
}

func (b *factBuilder) provenanceV02(s Statement) error {
	p := new(provenanceV02)
	if err := DecodePredicate(s, false, p); err != nil {
		return err
	}
	if p.BuildType == "" {
		return fieldErrorf("predicate.buildType", "missing")
	}
	parameters := flatten(p.Invocation.Parameters)
	if err := b.oldStep(s, p.Builder, p.BuildType, p.Invocation.ConfigSource.EntryPoint, parameters, p.Metadata, p.Materials); err != nil {
		return err
	}
	source := Descriptor{URI: p.Invocation.ConfigSource.URI, Digest: p.Invocation.ConfigSource.Digest}
	if source.Key() != "" {
		if err := source.check(); err != nil {
			return under("predicate.invocation.configSource", err)
		}
		b.useAs(source, "", RoleCode)
	}
	b.generate(s)
	return nil
}

func (b *factBuilder) provenanceV01(s Statement) error {
	p := new(provenanceV01)
	if err := DecodePredicate(s, false, p); err != nil {
		return err
	}
	if p.Recipe.Type == "" {
		return fieldErrorf("predicate.recipe.type", "missing")
	}
	if err := b.oldStep(s, p.Builder, p.Recipe.Type, p.Recipe.EntryPoint, flatten(p.Recipe.Arguments), p.Metadata, p.Materials); err != nil {
		return err
	}
	if i := p.Recipe.DefinedInMaterial; i != nil {
		if *i < 0 || *i >= len(p.Materials) {
			return fieldErrorf("predicate.recipe.definedInMaterial", "%d is not the place of one of the %d materials", *i, len(p.Materials))
		}
		b.useAs(p.Materials[*i], "", RoleCode)
	}
	b.generate(s)
	return nil
}

// oldStep notes what the two older forms of provenance have in common.
func (b *factBuilder) oldStep(s Statement, builder Builder, buildType, entryPoint string, parameters map[string]string, m buildMetadata, materials []Descriptor) error {
	if builder.ID == "" {
		return fieldErrorf("predicate.builder.id", "missing")
	}
	name := entryPoint
	if name == "" {
		name = buildType
	}
	b.f.Step = &Step{
		Run: m.run(), Name: name, BuildType: buildType, Builder: builder.ID,
		Started: m.StartedOn, Finished: m.FinishedOn, Parameters: parameters,
	}
	b.f.At, b.f.Summary = m.FinishedOn, name
	return b.materials(materials)
}

func (b *factBuilder) link(s Statement) error {
	p := new(link)
	if err := DecodePredicate(s, false, p); err != nil {
		return err
	}
	if p.Name == "" {
		return fieldErrorf("predicate.name", "missing")
	}
	b.f.Step = &Step{Name: p.Name, BuildType: LinkV03, Argv: p.Command}
	b.f.Summary = p.Name
	if err := b.materials(p.Materials); err != nil {
		return err
	}
	b.generate(s)
	return nil
}

// materials notes what a step used. One that is neither digest nor location
// says nothing that could be followed.
func (b *factBuilder) materials(materials []Descriptor) error {
	for i, d := range materials {
		if d.Key() == "" {
			continue
		}
		if err := d.check(); err != nil {
			return under("predicate.materials."+strconv.Itoa(i), err)
		}
		b.use(d, "")
	}
	return nil
}

// containerBuild begins the build type whose external parameters hold the
// source and the image that the build ran in
// (slsa.dev/container-based-build/v0.1).
const containerBuild = "https://slsa.dev/container-based-build/"

// externals reads what a known build type states in its external parameters:
// a name for the step, and resources that are not among its dependencies.
func (b *factBuilder) externals(p *Provenance) error {
	if !strings.HasPrefix(p.BuildDefinition.BuildType, containerBuild) {
		if path := b.f.Step.Parameters["workflow.path"]; path != "" {
			b.f.Step.Name = path // actions.github.io/buildtypes/workflow/v1
		}
		return nil
	}
	const field = "predicate.buildDefinition.externalParameters"
	var x struct {
		Source       Descriptor `json:"source"`
		BuilderImage Descriptor `json:"builderImage"`
		ConfigPath   string     `json:"configPath"`
	}
	if err := decode(p.BuildDefinition.ExternalParameters, &x); err != nil {
		return under(field, err)
	}
	if x.ConfigPath != "" {
		b.f.Step.Name = x.ConfigPath
	}
	for _, e := range []struct {
		name string
		d    Descriptor
		kind string
		role string
	}{{"source", x.Source, "", RoleCode}, {"builderImage", x.BuilderImage, "oci", RoleImage}} {
		if e.d.Key() == "" {
			continue
		}
		if err := e.d.check(); err != nil {
			return under(field+"."+e.name, err)
		}
		b.useAs(e.d, e.kind, e.role)
	}
	return nil
}

// useAs notes a dependency in a role. One that was noted as a mere input gets
// the role instead of being noted twice.
func (b *factBuilder) useAs(d Descriptor, kind, role string) {
	key := commitDigest(d).Key()
	if key == "" {
		return
	}
	for i, u := range b.f.Step.Uses {
		if u.Key == key && u.Role == RoleInput {
			b.f.Step.Uses[i].Role = role
			return
		}
	}
	b.use(d, kind)
	b.f.Step.Uses[len(b.f.Step.Uses)-1].Role = role
}

// commitDigest reads the sha1 that stands beside the URI of a Git repository
// as what it is, the ID of a commit: SLSA before v1 had no other name for it,
// and builders write it so in v1 still.
func commitDigest(d Descriptor) Descriptor {
	h := d.Digest["sha1"]
	if h == "" || d.Digest[GitCommit] != "" || !isRepository(d.URI) {
		return d
	}
	set := DigestSet{GitCommit: h}
	for alg, v := range d.Digest {
		if alg != "sha1" {
			set[alg] = v
		}
	}
	d.Digest = set
	return d
}

// isRepository says whether a URI is surely that of a Git repository.
func isRepository(uri string) bool {
	if strings.HasPrefix(uri, "git+") {
		return true
	}
	u, err := url.Parse(uri)
	if err != nil {
		return false
	}
	path, _, _ := strings.Cut(u.Path, "@")
	switch {
	case u.Scheme == "git", strings.HasSuffix(path, ".git"):
		return true
	case u.Scheme == "https" && (u.Host == "github.com" || u.Host == "gitlab.com" || u.Host == "bitbucket.org"):
		return strings.Count(strings.Trim(path, "/"), "/") == 1
	}
	return false
}

// registries are hosts of container images, by the end of their name.
var registries = []string{
	"docker.io", "gcr.io", ".pkg.dev", "ghcr.io", "quay.io", "registry.k8s.io", "public.ecr.aws", ".amazonaws.com", ".azurecr.io",
}

// isImageName says whether a subject's name is surely that of a container
// image: builders name images as one would pull them.
func isImageName(name string) bool {
	host, path, ok := strings.Cut(strings.TrimPrefix(name, "https://"), "/")
	if !ok || path == "" {
		return false
	}
	for _, r := range registries {
		if strings.HasSuffix(host, r) {
			return true
		}
	}
	return false
}
