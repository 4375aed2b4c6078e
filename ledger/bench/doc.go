// Package bench measures appends against the store beneath them: the same
// bytes under the same keys in the same batches, written without a ledger.
package bench
