// Command waggle-bench loads a running Waggle cluster and reports what it
// bore: messages (run), silent connections (idle); it judges a recorded run
// again (verify) and puts two results side by side (compare).
package main
