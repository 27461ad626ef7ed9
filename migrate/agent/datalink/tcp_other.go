//go:build !linux

package datalink

import (
	"net"
	"time"
)

// setUserTimeout does nothing: the probes of keep-alive have to do.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
