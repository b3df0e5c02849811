// Package bench loads a running cluster as people do and says what it bore.
//
//	result, err := bench.Run(ctx, bench.RunConfig{Common: bench.Common{Server: "127.0.0.1:7443", …}, Pairs: 500, Window: 500, …})
//
// [Run] sends messages between pairs, [Idle] holds connections that say
// nothing, [LimitsOf] looks for what a cell bears of both, [Move] moves a range
// under load, and [StormOf] breaks all connections at once. [ScaleOf] and
// [StartupOf] start clusters of their own: the same load over several numbers
// of cells, and how long a start takes. [CeilingOf] measures no Waggle but the
// least a durable chat server can do, to hold the other figures against. The
// others make their accounts through the operator's AddAccounts. All read what
// the servers use from /proc of the server processes where these run on the
// same machine, and leave a folder with result.json, report.md, plots and, for
// Run and Move, the history of every client, which [Verify] judges again. Run
// and LimitsOf send from several processes where asked to ([Member]): these
// begin at one instant and take turns in one schedule. [Compare] puts results,
// or sets of repeated ones, side by side.
//
// Latency is counted from when a send was due. In an open loop (a rate) that
// is the schedule's time, whatever the server does; in a closed loop (a
// window) it is when a place in the window became free.
package bench
