// Package cell assembles a cell node from the roles its configuration names:
// storage holds replicas, chat hosts ranges. A small cell runs both in one
// process, where host and leader talk by function call.
package cell
