// Package certs makes and uses the certificates nodes know each other by.
//
// One authority per cluster signs a certificate per node, whose URI SAN
// waggle://<role>/<cell or ->/<node> says who the node is, and the web
// certificate of the client port, which has no such name and so opens no
// door between nodes. Between nodes both sides show a certificate; the caller
// checks that the very node it wants answers (host names and addresses mean
// nothing), the callee checks by role what the caller may ask ([Allowed]).
//
// Files are read again when they change, so certificates are renewed without
// a restart.
package certs
