// Package operator serves controlpb.Operator, the verbs of people who run the
// cluster: what is there, how it does, new cells, new accounts. Lists join the
// records in etcd with what live nodes answer; one that does not answer in
// time is shown by its record and delays nobody.
package operator
