// Package disk asks the operating system for what package os does not: a lock
// that ends with its holder, the room that is left, a sync without metadata, a
// copy that keeps holes, two names exchanged in one step.
package disk
