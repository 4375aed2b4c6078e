// Package export writes what a lineage shows in the words of other tools, so
// that they can take over what a ledger knows:
//
//   - PROV: W3C PROV-JSON (member submission of 24 April 2013)
//   - SLSA: the provenance of each step as it was recorded, a line each
//   - CycloneDX: a bill of materials for machine learning, version 1.6
//
// Each is a function of the answer: the same answer is the same bytes. What the
// ledger does not know is absent, and what is only claimed is marked so.
package export
