// Package ingesttest is the law that every kind of source obeys (DESIGN 5), as
// a suite of tests, and a log in memory to read sources into.
//
// A kind gives Test a World: the source and the thing that it watches, which
// the suite changes and breaks.
package ingesttest
