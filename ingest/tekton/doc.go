// Package tekton is all there is to know of Tekton Pipelines, and of what Tekton
// Chains attests of them.
//
// A TaskRun says which images its steps ran, and its results name what it used
// and made, as Chains reads them (tektoncd/chains, docs: type hinting). Every
// TaskRun that has ended is a statement (schema.StepBuildType), and so is every
// PipelineRun; the run ID is the object's UID, which Chains' provenance names too,
// so that both are one step in the graph (schema.Walk).
package tekton
