// Command bench measures retrace beside others that take the same entries: the
// same envelopes, in the same rounds, on the same disk. It is a module of its
// own, so that none of them weighs on retrace.
//
//	go run . [flags] [appends] [proofs] [models] [ancestors]
//
// Without an argument it runs the first two, in about three minutes, and prints
// a table of each; models takes as long again. What is
// not installed is left out, and the table says so.
//
// ancestors asks for all ancestors of models, over HTTP, and compares retrace's
// GraphQL with a Go map, recursive queries and a client that walks by itself.
package main
