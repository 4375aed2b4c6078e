// Package client is a ledger behind HTTP: it records, reads entries, keeps and
// fetches content, and asks, through a server's address and token.
//
// It checks the form of what a server sends, that bodies are those of the
// commitments beside them, that tiles belong to the checkpoint, and that content has
// its digest. Whether the checkpoint is the log's own is for whoever holds the
// log's key.
//
// The wire format is defined here, in wire.go and tar.go; package server speaks
// it.
package client
