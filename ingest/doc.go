// Package ingest runs sources: it reads what a source says, signs it as the
// observer, and appends facts and cursor in one batch, so that each fact is
// recorded exactly once.
//
// What there is to know about one kind of source is in the folder of that
// kind below this one. A kind observes and, where its resources have content,
// fetches and digests; it never signs, appends, retries, sleeps or schedules.
package ingest
