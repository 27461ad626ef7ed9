package sys

import "errors"

// ErrNotLinux is what every function gives where the kernel is not Linux.
var ErrNotLinux = errors.New("only Linux can do this")

// ErrWoken ends a Wait whose Waker was woken.
var ErrWoken = errors.New("woken")

// Presence is the answer of a probe. Its zero value is invalid.
type Presence uint8

// The three answers. Unknown means that the probe itself failed: neither promise nor refuse on it.
const (
	Present Presence = iota + 1
	Absent
	Unknown
)

// Probe is the result of a probe with the reason and, for an absent feature, what to do about it.
type Probe struct {
	Presence Presence
	// Reason is one line; empty if the feature is present and there is nothing to add.
	Reason string
	// Remedy is one line, a command where possible; only with Absent.
	Remedy string
}

// Peer is the process at the other end of a unix socket. The figures are those it had when it called listen or connect.
type Peer struct {
	// PID is 0 if the process lives in a process namespace that we cannot see.
	PID int
	UID uint32
	GID uint32
}

// FileInfo is what a check of permissions needs of a file.
type FileInfo struct {
	// Mode holds the type and permission bits as stat(2) gives them.
	Mode     uint32
	UID, GID uint32
	Size     int64
	// Device and Inode name the file on one machine; zero if they are not known.
	Device, Inode uint64
}

// Same tells that both are one file of one machine.
func (f FileInfo) Same(g FileInfo) bool {
	return f.Inode != 0 && f.Inode == g.Inode && f.Device == g.Device
}

// Regular tells that it is a plain file, of Size bytes.
func (f FileInfo) Regular() bool { return f.Mode&0o170000 == 0o100000 }

// Allows tells whether a process of that user and those groups may do what the permission bits want ask for (4 read,
// 2 write, 1 execute). The superuser's privileges are not considered: a process may have dropped them.
func (f FileInfo) Allows(uid uint32, gids []uint32, want uint32) bool {
	if f.UID == uid {
		return f.Mode>>6&want == want
	}
	for _, g := range gids {
		if f.GID == g {
			return f.Mode>>3&want == want
		}
	}
	return f.Mode&want == want
}

// ErrNotYet says that nothing has come that could be read. It is a net.Error that passes, so that TLS goes on after it.
var ErrNotYet error = notYet{}

type notYet struct{}

func (notYet) Error() string   { return "nothing to read yet" }
func (notYet) Timeout() bool   { return true }
func (notYet) Temporary() bool { return true }
