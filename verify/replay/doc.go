// Package replay reads a whole log again, entry by entry, and says whether it
// is what its checkpoint signed and whether it keeps the rules of a ledger.
//
// It rebuilds the Merkle tree (RFC 6962 section 2.1) from the commitments, and
// checks each body against its commitment, the genesis, the order of times,
// each signature by a key that was known when the entry was recorded, what
// grade the trust history of that time gives the entry, the links of coverage,
// ref and tag statements to those before them, and that erased bodies and
// erasure entries account for each other. At the end size and root are compared
// with the checkpoint.
//
// What was checked and is not so is a [Finding]; what could not be read is an
// error. The package reads no store and no network itself, and knows no clock.
// It keeps nothing per entry: its memory does not grow with the log, but with
// the keys that are trusted, the refs and tags that are followed and the
// erasures that are not yet accounted for, each up to a limit.
//
// A Replay can be stopped after any entry and go on from its [Replay.State].
package replay
