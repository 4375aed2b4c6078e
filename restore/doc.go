// Package restore puts back what produced a resource, and runs it again.
//
// It works in three parts, each a function of the one before:
//
//	NewPlan    reads the lineage and says what would be laid out where: a Plan
//	Restore    lays a plan out in a folder and checks every digest afterwards
//	Reproduce  runs the recorded steps of a plan again and compares what they make
//
// A restored place looks like this (DESIGN 12.19):
//
//	DIR/steps/NN-NAME/     the working root of each step, dependencies first:
//	                       the commit, the uncommitted changes on top of it, and
//	                       the inputs at their recorded paths
//	DIR/images/sha256-…/   OCI image layouts
//	DIR/outside/NN-NAME/   inputs that were recorded outside the working root
//	DIR/resource/NAME      the resource itself, where its bytes are kept
//	DIR/retrace.lock.json  the plan, what was laid out, and whether that is all
//	DIR/.partial/          only while it is being laid out
//
// The package signs and appends nothing: verdicts are returned, and become
// statements by their Statement methods. It fetches through the interfaces
// that Sources names, which the command line wires to the content store and to
// the kinds of ingest.
package restore
