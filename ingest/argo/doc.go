// Package argo is all there is to know of Argo Workflows, and of Kubeflow
// Pipelines, which run on them.
//
// A Workflow says what each of its steps was given and where it put what it
// made. It holds no digest of anything: the image that a step ran in is resolved
// by the step's pod while that is there, and what is in an object store is
// hashed by the kind that watches the store. Every finished step is a statement
// (schema.StepBuildType), and so is the whole run, when it has ended or is
// deleted; an output that is a model is a version of one, named by the rules in
// retrace.yaml.
//
// Steps that Kubeflow adds (drivers) are left out; what it says of a step is read
// from the step's executor.
package argo
