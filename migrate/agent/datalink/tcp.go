package datalink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"
)

// Listen opens the destination's port. Where addr (host:port) has port 0 the first free one of the range ports is taken,
// both ends included; the range 0-0 leaves the choice to the kernel. Keep-alive is set on what it accepts by the Acceptor.
// The caller closes it, or hands it to an Acceptor.
func Listen(ctx context.Context, addr string, ports [2]int) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen for data connections: %w", err)
	}
	var lc net.ListenConfig
	if port != "0" || ports == [2]int{} {
		return lc.Listen(ctx, "tcp", addr)
	}
	if ports[0] < 1 || ports[1] > 65535 || ports[0] > ports[1] {
		return nil, fmt.Errorf("listen for data connections: %d-%d is no range of ports", ports[0], ports[1])
	}
	for p := ports[0]; p <= ports[1]; p++ {
		lis, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(p)))
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
			return lis, err
		}
	}
	return nil, fmt.Errorf("listen for data connections: all ports of %d-%d are in use: %w", ports[0], ports[1], syscall.EADDRINUSE)
}

// tune lets the kernel give up on a peer that has been silent for patience: by probes where nothing is under way, and
// otherwise by the time for which data may stay unacknowledged. What is no TCP connection is left as it is.
func tune(c net.Conn, patience time.Duration) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	// A connection works without these, too; it is only given up later.
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: max(patience/2, time.Second), Interval: max(patience/8, time.Second), Count: 4})
	_ = setUserTimeout(tcp, patience)
}
