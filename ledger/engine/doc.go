// Package engine is what the ledger asks of a store: ordered keys, an atomic
// and durable batch, and snapshots to read from. Badger is the one at hand;
// package enginetest is what another would have to pass.
package engine
