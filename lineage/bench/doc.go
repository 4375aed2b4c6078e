// Package bench measures how fast the graph answers: the full ancestor closure
// of a model, against a breadth-first walk over a Go map in memory. Both walk
// the same synthetic pipeline of models, which is written into a lineage index
// on disk.
package bench
