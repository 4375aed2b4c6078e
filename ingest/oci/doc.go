// Package oci is all there is to know of OCI registries as a source: how a
// repository is watched, and how an image is fetched back and digested.
//
// A source is oci://HOST/REPOSITORY, or oci://HOST/REPOSITORY?tag=TAG for some
// tags of it (the parameter may be given several times). Credentials are a token of
// the place's settings, or those of the Docker configuration; hosts on loopback and private networks are
// spoken to in plain HTTP, as go-containerregistry does.
//
// # What is stated
//
// Each manifest or index that a tag points at, and each image of such an
// index, becomes one image statement (schema.Image), and each move of a tag
// one tag statement (schema.Tag) that names the one before it. Digests are
// computed here, from the bytes that the registry served.
//
// An image statement is a function of the manifest, of its config, and of what
// is attached to it: cosign's tags (sha256-….sig, .att, .sbom) and the
// referrers of OCI 1.1. Attachments come later than the image, so when the
// list of them changes while a tag points at the image, there is another image
// statement; while it does not, reading again gives the same bytes. Those of
// the images inside an index are read when the index is. Cosign's own tags are
// no tag statements.
//
// A tag that moves twice between two looks shows one move: a registry keeps no
// history.
package oci
