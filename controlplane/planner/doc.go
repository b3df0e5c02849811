// Package planner proposes moves of ranges: where a range's replicas go when it
// is moved, when a node or a cell is drained, when load is uneven, when a node
// is lost. It is pure and starts nothing; controlplane/operator and
// controlplane/mover submit what it proposes.
package planner
