// Package content keeps the bytes of files and folders under their digests,
// each piece once, so that what a step used can be put back.
//
// A key is sha256 for a file and retraceTree1 for a folder (see
// [schema.TreeDigest]). Both are digests of our own over plain bytes, so that
// they mean the same on any machine; the identifiers of kopia, in which the
// bytes are kept, are keyed with a secret of each repository and never leave
// the store.
//
// # On disk
//
//	DIR/blobs/    the kopia repository: split, deduplicated, compressed, encrypted
//	DIR/password  its random password, readable by the owner only
//	DIR/keys/HH   which object holds which key: checked lines, appended
//	DIR/sums      a checksum of each file of the repository
//	DIR/synced    when files were last made durable
//	DIR/lock      held for a moment while a key is added
//	DIR/gate      held by who reads or writes, together; by Collect, alone
//	DIR/collected when was collected last; DIR/collecting while that goes on
//
// With [Remote], blobs and keys are in an object store, and DIR has a copy of the
// keys and a cache.
//
// A key is added after the bytes that it stands for are durable, so a crash
// leaves bytes without a key, which the next Put of them finds again, and never
// a key without its bytes.
//
// What is put by Put is kept for good. Snapshot has a folder kept for a holder,
// until Release; Collect then frees what nobody holds.
//
// The store is the only package that knows kopia. No kopia command should be
// run on the repository: objects are kept alive by our keys, which kopia's
// garbage collection does not know.
package content
