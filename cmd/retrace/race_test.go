//go:build race

package main

// raced says whether this is under the race detector.
const raced = true
