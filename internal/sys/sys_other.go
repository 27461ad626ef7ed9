//go:build !linux

package sys

import (
	"os"
	"syscall"
)

// InNetns fails: there are no network namespaces.
func InNetns(string, func()) error { return ErrNotLinux }

// OpenInRoot fails: there is no openat2.
func OpenInRoot(string, string) (*os.File, error) { return nil, ErrNotLinux }

// StatInRoot fails: there is no openat2.
func StatInRoot(string, string) (FileInfo, error) { return FileInfo{}, ErrNotLinux }

// FilesystemInRoot fails: there is no openat2.
func FilesystemInRoot(string, string) (string, error) { return "", ErrNotLinux }

// PeerOf fails: there is no SO_PEERCRED.
func PeerOf(syscall.Conn) (Peer, error) { return Peer{}, ErrNotLinux }

// ProbeUserfault finds nothing.
func ProbeUserfault() Probe { return Probe{Presence: Absent, Reason: ErrNotLinux.Error()} }
