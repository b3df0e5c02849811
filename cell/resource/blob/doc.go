// Package blob stores whole, immutable files under names that the caller
// chooses: on a local disk or in a bucket of S3. A blob is there completely
// and durably, or not at all; what is in it is sealed by the caller.
package blob
