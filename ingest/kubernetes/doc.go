// Package kubernetes is all there is to know of what runs in a cluster.
//
// Each read lists workloads and their pods, and states of every workload whose
// state differs from the one stated last what runs now: the images as the
// runtime resolved them, the models that it serves, and the commit that it was
// put there from. A state names the statement about the workload before it, so
// that one that comes back is a fact and a read that finds nothing new is none.
//
// What counts of a workload are its containers with their images, its models and
// its revision: pods that come and go, replicas and annotations do not. While a
// rollout goes on, a container has two images. What ran for less than the time
// between two reads is not seen.
package kubernetes
