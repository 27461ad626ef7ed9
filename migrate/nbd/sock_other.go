//go:build !linux

package nbd

import (
	"net"
	"time"
)

// tuneSocket does nothing: only Linux is tuned.
func tuneSocket(net.Conn, time.Duration) {}

// acked is not known here.
func acked(net.Conn) uint64 { return 0 }
