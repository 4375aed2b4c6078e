// Package cosign checks whether an image is signed by the holder of a key,
// with cosign's own packages and nothing but the registry, or the folder, that
// holds image and signatures: no transparency log, no certificate authority,
// no clock.
//
// A signature counts when the key made it and when the digest that it claims
// is that of the image: a signature copied from another image is no signature
// of this one.
//
// LoadPrivate reads the key files that cosign writes, for keys of a ledger.
//
// Sign and GenerateKey are for demonstrations and tests. retrace signs no
// images of anybody.
package cosign
