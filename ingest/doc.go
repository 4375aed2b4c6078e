// Package ingest runs sources: it reads what a source says, signs it as the
// observer, and appends facts and cursor in one batch, so that each fact is
// recorded exactly once.
//
// What there is to know about one kind of source is in the folder of that
// kind below this one. A kind observes and, where its resources have content,
// fetches and digests; it never signs, appends, retries, sleeps or schedules.
//
// # Reading the source
//
//   - [Source] in ingest.go is what a kind promises; [Kind] in kind.go is how
//     ingest/all lists it; ingest/ingesttest holds every kind to it.
//   - [Runner] in runner.go reads once or watches.
//   - batch.go cuts what is read at the source's cursors, so that an append is
//     whole and can be resumed from.
//   - coverage.go states what was looked at, and when nothing could be.
package ingest
