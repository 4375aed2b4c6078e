package schema

import (
	"strings"

	"github.com/opencontainers/go-digest"
)

// ImageDescriptor is the image that a container ran, from the two fields of a
// container's status in Kubernetes: image as it was asked for, and imageID in
// any form that runtimes give it (docker-pullable://REPOSITORY@DIGEST,
// REPOSITORY@DIGEST, DIGEST, docker://DIGEST). It reports false where imageID
// has no digest: the image is unknown then, whatever image says.
//
// A digest with a repository is of a manifest or an index; one without is of an
// image's configuration. Which of the two it is joined to, the registry says.
func ImageDescriptor(image, imageID string) (Descriptor, bool) {
	id := imageID
	if _, rest, ok := strings.Cut(id, "://"); ok {
		id = rest
	}
	repository, hash, ok := strings.Cut(id, "@")
	if !ok {
		repository, hash = "", id
	}
	if _, err := digest.Parse(hash); err != nil {
		return Descriptor{}, false
	}
	d := Descriptor{Name: repository, Digest: digestSetOf(hash), Annotations: map[string]any{AnnotationKind: "oci"}}
	if d.Name == "" {
		d.Name = imageRepository(image)
	}
	return d, true
}

// imageRepository is an image reference without its tag and digest.
func imageRepository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image
}
