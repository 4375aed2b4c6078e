// Package run captures one command as a step: what it used, how it was run and
// what came of it, as statements for the caller to sign and append.
//
// It never holds the ledger. Recording has three parts, so that nothing is
// locked while a command runs that may take days: [Prepare] looks at the inputs
// and the code before, [Prepared.Exec] runs the command, [Prepared.Finish] looks
// at the outputs after and builds the statements. [Record] does all three.
//
// # What is recorded
//
// The inputs and outputs that are declared, as they were before and after; the
// Git commit and the uncommitted changes of the worktree that the command runs
// in; the program, the command, parameters, an allow-list of the environment,
// the exit status and the metrics that the command wrote. Without declared
// inputs and outputs a step is only its code, its command and its exit status:
// nothing is guessed from what the command touched.
//
// # Gaps
//
// What stands in the way of restoring or reproducing the step, as far as its
// recorder can see, goes with it: outside-root, input-changed, output-missing,
// output-unchanged, output-not-recorded (it could not be read), content-not-kept
// (it could be read and not kept), metrics-not-recorded, dirty-tree,
// changes-left-out, commit-not-on-remote.
//
// # Uncommitted changes
//
// They are kept as a folder of their own: below files/ each changed or untracked
// file at its path relative to the working root, and in deleted.json a JSON array
// of the tracked paths that are gone. Laid over the commit they give the tree
// that the command saw. Left out, and named in a gap, are files that look like
// secrets and whatever exceeds 256 MiB in all.
package run
