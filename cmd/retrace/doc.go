// Command retrace is a reproducibility and lineage ledger for machine
// learning: it records what went into a model, answers what produced it with
// proof, and puts it back.
//
// One file holds one verb, or two that belong together (prove and verify, names
// and history). What the verbs share is in book.go (an open ledger
// with its lineage), output.go (tables and JSON) and errors.go (exit status).
package main
