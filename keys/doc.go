// Package keys holds the Ed25519 keys that retrace signs with and the files
// they live in: PKCS #8 and SPKI in PEM, and C2SP verifier keys.
package keys
