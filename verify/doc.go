// Package verify checks envelopes, checkpoints, proofs and bundles. It needs
// no store, no server, no network and no clock.
//
// What was checked and is not so is a *FalseError; what could not be read is a
// *MalformedError. The two are never confused.
//
// A Bundle is the file that proves one answer. Its verification opens the
// checkpoint with the log's public key, checks every entry's place in the
// tree, reads the entries' statements again, walks the graph they state, and
// compares that walk with the answer. It trusts nobody but the holder of the
// log's key, and says what it does not prove.
package verify
