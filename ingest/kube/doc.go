// Package kube reads objects of a Kubernetes API server for the kinds that
// watch clusters: which objects there are, and how they change, with a cursor
// that is small however many there are.
//
// What is read is a pure function of the objects: facts about an object that is
// read twice are the same bytes, and the log keeps one of them. So the cursor
// holds a resource version a type and nothing of the objects.
package kube
