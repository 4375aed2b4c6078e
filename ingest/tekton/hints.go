package tekton

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retrace-ledger/retrace/ingest"
	"github.com/retrace-ledger/retrace/schema"
)

// hint is something that a name and a value say was used or made (tektoncd/chains,
// pkg/artifacts: type hinting).
type hint struct {
	name string // without what makes it a hint, such as "model" of "model-ARTIFACT_OUTPUTS"
	what schema.Descriptor
}

// hints are those in a list of parameters or results.
type hints struct {
	inputs  []hint
	outputs []hint
	odd     []string // what is wrong with those that are none
}

// The ends of names that make them hints. Of those that come in pairs, both
// have the same beginning.
const (
	gitURL, gitCommit       = "GIT_URL", "GIT_COMMIT"
	imageURL, imageHash     = "IMAGE_URL", "IMAGE_DIGEST"
	artifactAt, artifact256 = "ARTIFACT_URI", "ARTIFACT_DIGEST"
	inputsEnd               = "ARTIFACT_INPUTS"
	outputsEnd              = "ARTIFACT_OUTPUTS"
	imagesName              = "IMAGES"
)

// read finds the hints in a list. Parameters name what a run is given: of them
// only inputs count.
func (h *hints) read(list []param, given bool) {
	pairs := map[string]map[string]string{} // by end, then by beginning
	note := func(end, start, value string) {
		if pairs[end] == nil {
			pairs[end] = map[string]string{}
		}
		pairs[end][start] = strings.TrimSpace(value)
	}
	for _, p := range list {
		start, end := cut(p.Name)
		switch end {
		case inputsEnd, outputsEnd:
			if end == inputsEnd || !given {
				h.object(p, start, end)
			}
		case imagesName:
			if !given {
				h.images(p)
			}
		case "":
		default:
			note(end, start, p.text())
		}
	}
	for _, start := range slices.Sorted(maps.Keys(pairs[gitURL])) {
		h.git(start, pairs[gitURL][start], pairs[gitCommit][start])
	}
	if given {
		return
	}
	for _, start := range slices.Sorted(maps.Keys(pairs[imageHash])) {
		h.image(start, pairs[imageURL][start], pairs[imageHash][start])
	}
	for _, start := range slices.Sorted(maps.Keys(pairs[artifact256])) {
		h.artifact(&h.outputs, start+"ARTIFACT", trimmed(start), pairs[artifactAt][start], pairs[artifact256][start])
	}
}

// cut divides a name into what it begins with and the end that makes it a hint;
// the end is "" if it is none.
func cut(name string) (start, end string) {
	if name == imagesName {
		return "", imagesName
	}
	for _, end := range []string{gitURL, gitCommit, imageURL, imageHash, artifactAt, artifact256, inputsEnd, outputsEnd} {
		if start, ok := strings.CutSuffix(name, end); ok {
			return start, end
		}
	}
	return "", ""
}

func trimmed(start string) string { return strings.Trim(start, "-_.") }

// odd notes a hint that says nothing.
func (h *hints) strange(name, format string, args ...any) {
	h.odd = append(h.odd, name+": "+fmt.Sprintf(format, args...))
}

// object is a hint whose value holds all of it.
func (h *hints) object(p param, start, end string) {
	of := p.fields()
	if of == nil {
		h.strange(p.Name, "is no object of texts")
		return
	}
	list := &h.inputs
	if end == outputsEnd {
		list = &h.outputs
	}
	h.artifact(list, p.Name, trimmed(start), strings.TrimSpace(of["uri"]), strings.TrimSpace(of["digest"]))
}

func (h *hints) artifact(list *[]hint, full, name, uri, digest string) {
	key, err := schema.ParseKey(digest)
	switch {
	case uri == "":
		h.strange(full, "says no uri")
		return
	case err != nil:
		h.strange(full, "has no digest: %q", shown(digest))
		return
	}
	d := schema.Descriptor{Name: name, URI: ingest.WithoutCredentials(uri), Digest: schema.DigestSet{key.Algorithm(): key.Hex()}}
	if name == "" {
		d.Name = uri
	}
	if key.Algorithm() == "sha1" { // what Chains and SLSA call the ID of a commit
		d.Digest = schema.DigestSet{schema.GitCommit: key.Hex()}
	}
	*list = append(*list, hint{name, d})
}

func (h *hints) git(start, url, commit string) {
	if url == "" {
		return
	}
	d := schema.Descriptor{URI: ingest.WithoutCredentials(url)}
	if key, err := schema.ParseKey(schema.GitCommit + ":" + strings.TrimPrefix(commit, "sha1:")); err == nil {
		d.Digest = schema.DigestSet{schema.GitCommit: key.Hex()}
	} else {
		h.strange(start+gitCommit, "%q is no commit", shown(commit))
	}
	h.inputs = append(h.inputs, hint{trimmed(start), d})
}

func (h *hints) image(start, url, digest string) {
	switch d, ok := schema.ImageDescriptor(url, digest); {
	case url == "":
		h.strange(start+imageHash, "there is no %s%s", start, imageURL)
	case !ok:
		h.strange(start+imageHash, "%q is no digest", shown(digest))
	default:
		h.outputs = append(h.outputs, hint{trimmed(start), d})
	}
}

// images is a list of images with their digests, between commas or line ends.
func (h *hints) images(p param) {
	for _, ref := range strings.FieldsFunc(p.text(), func(r rune) bool { return r == ',' || r == '\n' || r == ' ' }) {
		if d, ok := schema.ImageDescriptor(ref, ref); ok && d.Name != "" {
			h.outputs = append(h.outputs, hint{"", d})
		} else {
			h.strange(p.Name, "%q names no image by digest", shown(ref))
		}
	}
}

// shown is a value in an explanation: short, and no secret.
func shown(s string) string {
	if ingest.SecretValue(s) != "" {
		return withheld
	}
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// withheld stands for what looks like a secret.
const withheld = "(withheld)"
