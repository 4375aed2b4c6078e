package content

// Remote is a place in an object store.
type Remote struct{}
