// Package sigstore checks Sigstore bundles against a trusted root and an
// identity, with no network and no clock: what a bundle is found to be it is
// found to be for ever.
package sigstore
