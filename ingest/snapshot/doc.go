// Package snapshot is the kind of source that is a folder: its content at one
// time, kept in the content store.
//
// A folder is identified by its retraceTree1 digest (see [schema.TreeDigest]).
// Files that did not change since the last read, by what the system says of them
// (see the index of package content), are not read again, unless the setting
// read says so. What is kept already is not written again.
//
// Which snapshots stay in the store is for keep rules (package keep); what is
// recorded stays recorded.
package snapshot
