//go:build !linux

package agent

import (
	"net"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// Stdio fails: agents run on Linux.
func Stdio() (net.Conn, error) { return nil, sys.ErrNotLinux }
