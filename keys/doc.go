// Package keys holds the keys that retrace signs with: its own, which are
// Ed25519, the files they live in (PKCS #8 and SPKI in PEM, and C2SP verifier
// keys), and those that sign through somebody else's code.
package keys
