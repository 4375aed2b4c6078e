// Package csi is all there is to know of snapshots of volumes in a cluster.
//
// Each read lists VolumeSnapshots with their contents, volume claims and pods,
// and states of every snapshot that is there, or has failed, what differs from
// what was stated last: the driver and its handle, which identify it, whether
// the bytes go with the object, the claim that it was taken of and the pods that
// mounted that. A claim whose content was made from something is stated too.
//
// Where the configuration asks for it, the source is an ingest.Taker as well: it
// takes snapshots of claims that are labelled so, and deletes its own by keep
// rules. Observing never does.
package csi
