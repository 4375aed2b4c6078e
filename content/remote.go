package content

// Remote is a prefix of a bucket of an object store.
type Remote struct {
	Bucket, Prefix       string
	Endpoint             string // URL; Amazon's if empty
	Region               string
	AccessKey, SecretKey string
	Password             string // encrypts all that is kept there
}
