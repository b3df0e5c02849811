// Package proto holds the words every tier shares: ids and the rule that says
// which range owns a thread, limits, versions and error codes. The messages
// are in its folders: client (client ⇄ edge), cell (edge ⇄ cell, inside
// cells, stored values) and control (anyone ⇄ control plane).
package proto
