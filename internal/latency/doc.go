// Package latency counts how long things took, in classes that grow by a
// quarter each, and keeps the counts of the last seconds. What several nodes
// have counted is added up class by class, so that a percentile over all of
// them is one over all of what they saw.
package latency
