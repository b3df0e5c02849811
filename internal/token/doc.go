// Package token makes and checks login tokens: JWTs signed with Ed25519 by the
// control plane, checked offline by every edge. A token says who speaks; no
// cell stands in it, because users move.
package token
