// Package ledgertest makes ledgers for tests. Each is read through and checked
// when its test ends, so that a test of anything is a test of the ledger too.
package ledgertest
