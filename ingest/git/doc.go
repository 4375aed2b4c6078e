// Package git is all there is to know of Git repositories: how commits and refs
// are observed, and how a commit is fetched back and digested.
//
// A source is a repository in the file system (git+file:///path), read in
// place, or a remote one (git+https://, git+http://, git+ssh://), mirrored into
// the cache folder first. All branches and tags are watched, or those that
// ?ref= names; a short name is a branch.
//
// # What is observed
//
// One commit statement for each commit that can be reached from a watched ref,
// parents before children; then one ref statement for each ref that is new,
// moved or gone, which names the statement about that ref before it. Moving to
// a commit that does not have the old one among its ancestors is marked forced.
//
// The cursor holds what each ref was last stated to point at and, while a long
// read is under way, the refs that it works towards and how many commits of it
// are stated: the order of those is a function of the repository and of the two
// sets of refs, so that it can be taken up again anywhere.
//
// # What is fetched
//
// A commit, its trees and blobs, without history, written by package os's Root
// and byte for byte: no line ends are converted, no filters run, submodules are
// empty folders. Pack puts the same into one file, for the content store.
package git
