// Package server is the HTTP listener, and who may call it.
//
// It listens on loopback only. Who may write, restore or read content holds
// the token that lies in server.json, a file in the ledger's directory that only
// its owner can read; commands find a running server there. Whoever is on the
// machine may ask; no page in a browser may, unless the server served it: Host and
// Origin are checked on every request (DNS rebinding, cross-site requests).
//
// # Reading the source
//
//   - [Server.Run] in server.go owns everything that runs: the listener, the
//     goroutine that keeps the graph following the log, the restorations.
//   - routes.go is the table of routes, guard.go decides who may call them.
//   - statements.go and content.go take what agents send; restorations.go runs
//     restorations as jobs.
package server
