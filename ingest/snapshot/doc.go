// Package snapshot is the kind of source that is a folder: its content at one
// time, kept in the content store.
//
// A folder is identified by its retraceTree1 digest (see [schema.TreeDigest]).
// Each read hashes everything, for only that misses nothing: a file can change
// without a change of its size and time. What is kept already is not written
// again.
package snapshot
