// Package lineage is the graph that follows the log: what each resource was
// made from, what was made from it, and which names pointed where, when.
//
// The index lives in a directory of its own. It is derived: its keys are a
// deterministic function of the entries, in their order, and carry the entry's
// index, so that any earlier size can be asked for and a deleted index comes
// back identical. It is never ahead of the log.
//
// What a walk means is defined by schema.Walk; this package makes its steps
// cheap. Diff, Gaps and Resolve are built on the same walk.
package lineage
