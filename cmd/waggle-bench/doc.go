// Command waggle-bench loads a running Waggle cluster and reports what it
// bore: messages (run), silent connections (idle), the most of both (limits), a
// range that moves (move), everybody coming back at once (storm). It starts
// clusters of its own for the same load over more cells (scale) and for starts
// (startup), measures the least a durable chat server can do (ceiling), judges a
// recorded run again (verify) and puts results side by side (compare).
package main
