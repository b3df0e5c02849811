// Package edge assembles an edge: the node that terminates client
// connections. It listens (edge/listen), keeps sessions (edge/session),
// attaches them to the hosts of their ranges (edge/router) and serves HTTP
// (edge/gateway). It holds no durable state.
package edge
