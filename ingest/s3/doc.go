// Package s3 is all there is to know of object stores that speak S3.
//
// Pipelines leave what they make at locations and digest nothing. This kind
// follows the ledger, and when a recorded step says that it left something in
// the bucket that is watched, or read something there, the objects are read and
// hashed: the bytes get a name that lasts, and the location a history. Of a
// bucket that keeps versions, the version is taken that was there when the step
// ended. What cannot be read, or was overwritten before anybody looked, stays
// known by its location alone.
package s3
