// Package ledger is the append-only log: it is created, opened, appended to,
// read and proved from, and it never signs two histories.
//
// # Reading the source
//
//   - [Ledger.Append] in append.go checks a batch in the caller's goroutine and
//     queues it.
//   - commit.go takes everything that is queued into one commit: entries, tiles,
//     cursors and the signed checkpoint in one durable transaction, then the
//     checkpoint file, then the answers.
//   - [Open] in open.go compares the store with the checkpoint file, case by
//     case, before anything is answered.
//   - tree.go is the Merkle tree: its right edge in memory, its full tiles in
//     the store, each checked against its parent when it is read.
//   - [Ledger.Erase] in erase.go takes a body out in the commit that says so;
//     [Purge] in purge.go rewrites the store without what was taken out.
//   - [Fsck] in fsck.go reads everything again and trusts none of it.
//
// # On disk
//
// A ledger is a directory with four things of its own:
//
//	store/       the engine's files (package engine)
//	checkpoint   two 4 KiB slots, the last two signed checkpoints
//	dedup.key    the secret under which duplicates are recognized
//	lock         held while a process has the ledger open
//
// The checkpoint file is kept apart from the store because a damaged store can
// open without an error and hold less: what was signed must not depend on it.
package ledger
