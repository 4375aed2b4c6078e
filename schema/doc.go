// Package schema is the vocabulary of retrace: statements, envelopes, entries,
// resources and predicates, their strict decoding, and the pure function from
// a statement to the facts it states.
//
// Everything else imports it; it imports no other package of retrace, does no
// I/O and knows no clock. Two programs that decode the same entries with it
// derive the same graph, which is what lets an offline verifier check an
// answer that a server gave.
//
// # From bytes to facts
//
//	Body      salt, header and envelope: what one leaf of the ledger commits to
//	Envelope  DSSE around a statement, signed by whoever observed or attests it
//	Statement in-toto Statement v1: subjects, predicate type, predicate
//	Facts     resources, steps, relations and names that the statement states
//
// The formats are in-toto attestation v1, SLSA Provenance v1, SLSA VSA v1,
// DSSE v1 and RFC 8785 canonical JSON; what is retrace's own is under
// https://github.com/retrace-ledger/retrace/predicates/ and described by the
// JSON Schemas in schema/json.
package schema
