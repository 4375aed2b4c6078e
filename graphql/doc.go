// Package graphql is the API over lineage and proofs, and who may ask it what.
//
// Its schema and manual is schema/schema.graphql. A request is answered from
// one [lineage.View]: everything in it speaks for the same entries, and its
// size stands in the response. Resolvers read the graph; only what needs the
// body of an entry (its statement, a proof) reads the log.
//
// # Reading the source
//
//   - [API.ServeHTTP] in http.go takes a request off the wire (GraphQL over HTTP)
//     and api.go runs it within limits.
//   - query.go and mutation.go are the roots; each type has a file of its own.
//   - errors.go decides what an error may tell the caller.
package graphql
