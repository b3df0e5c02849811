package controlclient

import (
	waggle "github.com/waggle-im/waggle/proto"
)

// FilesAddr is where a resource node serves files, alive or not.
func (c *Client) FilesAddr(node waggle.NodeID) (string, bool) {
	addr := c.View().Nodes[node].Record.GetFilesAddr()
	return addr, addr != ""
}

// FilesNodes are the resource nodes of a cell that are believed alive, by name.
func (c *Client) FilesNodes(cell waggle.CellID) []waggle.NodeID {
	var out []waggle.NodeID
	for _, n := range c.View().InCell(cell) {
		if n.Alive && n.Record.GetFilesAddr() != "" {
			out = append(out, n.ID)
		}
	}
	return out
}

// LiveAddrs is where a resource node takes RTSP and RTMP, alive or not.
func (c *Client) LiveAddrs(node waggle.NodeID) (rtsp, rtmp string, ok bool) {
	r := c.View().Nodes[node].Record
	return r.GetRtspAddr(), r.GetRtmpAddr(), r.GetRtspAddr() != "" || r.GetRtmpAddr() != ""
}
