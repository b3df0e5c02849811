package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwardedHopsMax bounds the hops of X-Forwarded-For that are looked at.
const forwardedHopsMax = 16

// ParseProxies reads networks, as in 10.0.0.0/8, or single addresses.
func ParseProxies(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			addr, addrErr := netip.ParseAddr(s)
			if addrErr != nil {
				return nil, fmt.Errorf("%q is not a network, as in 10.0.0.0/8", s)
			}
			addr = addr.Unmap()
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// clientAddress is whom the limits count for: an IPv4 address, or the network
// of 2^64 addresses that one IPv6 customer has; empty: exempt. The header of a
// proxy is believed only if the proxy is trusted, and of it the right-most hop
// that is no trusted proxy: what stands left of that the client may have
// written himself.
func (g *gateway) clientAddress(r *http.Request) string {
	peer, ok := parseHost(r.RemoteAddr)
	if !ok {
		return "unknown"
	}
	ip := peer
	if g.trusted(peer) {
		ip = g.forwardedFor(peer, r.Header.Values("X-Forwarded-For"))
	}
	if ip == peer && ip.IsLoopback() && g.exemptLoopback {
		return ""
	}
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		return "unknown"
	}
	return network.String()
}

// forwardedFor walks the hops from the right.
func (g *gateway) forwardedFor(peer netip.Addr, headers []string) netip.Addr {
	hops := strings.Split(strings.Join(headers, ","), ",")
	client := peer
	for _, hop := range slices.Backward(hops[max(0, len(hops)-forwardedHopsMax):]) {
		ip, ok := parseHost(strings.TrimSpace(hop))
		if !ok {
			return client // whoever wrote this is the last one that is known
		}
		if client = ip; !g.trusted(ip) {
			return client
		}
	}
	return client
}

func (g *gateway) trusted(ip netip.Addr) bool {
	return slices.ContainsFunc(g.proxies, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// parseHost reads an address with or without a port.
func parseHost(s string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	ip, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return ip.Unmap().WithZone(""), err == nil
}
