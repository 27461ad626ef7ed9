//go:build !linux

package sys

import (
	"context"
	"errors"
	"iter"
	"net"
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

// ThreadConn cannot be had.
type ThreadConn struct{ net.Conn }

// TakeConn fails, and closes the connection.
func TakeConn(c *net.TCPConn) (*ThreadConn, error) { return nil, errors.Join(ErrNotLinux, c.Close()) }

// FD is -1.
func (*ThreadConn) FD() int { return -1 }

// Try does nothing.
func (*ThreadConn) Try(bool) {}

// Control fails.
func (*ThreadConn) Control(func(fd int)) error { return ErrNotLinux }

// CloseWrite fails.
func (*ThreadConn) CloseWrite() error { return ErrNotLinux }

// UserFault cannot be had: there is no userfaultfd.
type UserFault struct{}

// NewUserFault fails, and so does all that follows: there is no userfaultfd.
func NewUserFault(bool) (*UserFault, error) { return nil, ErrNotLinux }

// UserFaultFromFD gives one that can do nothing.
func UserFaultFromFD(int) *UserFault { return &UserFault{} }

// FD is -1.
func (*UserFault) FD() int { return -1 }

// Close has nothing to do.
func (*UserFault) Close() error { return nil }

// API fails.
func (*UserFault) API(Features) (Features, error) { return 0, ErrNotLinux }

// Register fails.
func (*UserFault) Register(_, _ uint64, _ RegisterMode) error { return ErrNotLinux }

// Unregister fails.
func (*UserFault) Unregister(_, _ uint64) error { return ErrNotLinux }

// Wake fails.
func (*UserFault) Wake(_, _ uint64) error { return ErrNotLinux }

// WriteProtect fails.
func (*UserFault) WriteProtect(_, _ uint64, _, _ bool) error { return ErrNotLinux }

// Copy fails.
func (*UserFault) Copy(uint64, []byte, bool) (int, error) { return 0, ErrNotLinux }

// ZeroPage fails.
func (*UserFault) ZeroPage(_, _ uint64, _ bool) (int, error) { return 0, ErrNotLinux }

// Continue fails.
func (*UserFault) Continue(_, _ uint64, _ bool) (int, error) { return 0, ErrNotLinux }

// Poison fails.
func (*UserFault) Poison(_, _ uint64) (int, error) { return 0, ErrNotLinux }

// Read fails.
func (*UserFault) Read([]Event) (int, error) { return 0, ErrNotLinux }

// Waker cannot be had: there is no eventfd.
type Waker struct{}

// NewWaker fails.
func NewWaker() (*Waker, error) { return nil, ErrNotLinux }

// FD is -1.
func (*Waker) FD() int { return -1 }

// Wake fails.
func (*Waker) Wake() error { return ErrNotLinux }

// Reset fails.
func (*Waker) Reset() error { return ErrNotLinux }

// Close has nothing to do.
func (*Waker) Close() error { return nil }

// Wait fails.
func Wait(*Waker, ...int) (int, error) { return 0, ErrNotLinux }

// InjectUserFault fails: nothing is injected here.
func InjectUserFault(context.Context, int) (*UserFault, int, error) { return nil, -1, ErrNotLinux }

// InjectUserFaultMode fails.
func InjectUserFaultMode(context.Context, int, bool) (*UserFault, int, error) {
	return nil, -1, ErrNotLinux
}

// InjectClose fails.
func InjectClose(context.Context, int, int) error { return ErrNotLinux }

// InjectSyscall fails.
func InjectSyscall(context.Context, int, uintptr, ...uintptr) (int64, error) { return 0, ErrNotLinux }

// Adopted is a userfaultfd that another process holds too.
type Adopted struct {
	Fault    *UserFault
	RemoteFD int
	Features Features
}

// AdoptUserFaults fails.
func AdoptUserFaults(int) ([]Adopted, error) { return nil, ErrNotLinux }

// Pagemap cannot be had: there is no /proc.
type Pagemap struct{}

// OpenPagemap fails.
func OpenPagemap(int) (*Pagemap, error) { return nil, ErrNotLinux }

// Close has nothing to do.
func (*Pagemap) Close() error { return nil }

// Scan fails.
func (*Pagemap) Scan(start, _ uint64, _ ScanOptions, _ []PageRegion) (int, uint64, error) {
	return 0, start, ErrNotLinux
}

// SoftDirty fails.
func (*Pagemap) SoftDirty(uint64, []bool) error { return ErrNotLinux }

// ClearSoftDirty fails.
func (*Pagemap) ClearSoftDirty() error { return ErrNotLinux }

// Maps fails: there is no /proc.
func Maps(int) ([]Map, error) { return nil, ErrNotLinux }

// OpenMapped fails: there is no /proc.
func OpenMapped(int, uint64, bool) (*os.File, int64, error) { return nil, 0, ErrNotLinux }

// Memfd fails: there is no memfd_create.
func Memfd(string, int64, bool) (*os.File, error) { return nil, ErrNotLinux }

// PunchHole fails: there is no fallocate.
func PunchHole(*os.File, int64, int64) error { return ErrNotLinux }

// Reserve fails.
func Reserve(*os.File, int64, int64) error { return ErrNotLinux }

// Room fails.
func Room(*os.File) (int64, bool, error) { return 0, false, ErrNotLinux }

// Space fails.
func Space(*os.File) (free, size int64, err error) { return 0, 0, ErrNotLinux }

// PageSize fails.
func PageSize(*os.File) (int64, error) { return 0, ErrNotLinux }

// FileExtent is a part of a file, in bytes.
type FileExtent struct{ Off, Len int64 }

// DataExtents fails.
func DataExtents(*os.File, int64, int64) iter.Seq2[FileExtent, error] {
	return func(yield func(FileExtent, error) bool) { yield(FileExtent{}, ErrNotLinux) }
}

// Mapping cannot be had.
type Mapping struct{}

// MapShared fails.
func MapShared(*os.File, int64, int64, bool) (*Mapping, error) { return nil, ErrNotLinux }

// Bytes is nil.
func (*Mapping) Bytes() []byte { return nil }

// Close has nothing to do.
func (*Mapping) Close() error { return nil }

// absentHere is the answer of every probe.
func absentHere() Probe { return Probe{Presence: Absent, Reason: ErrNotLinux.Error()} }

// ProbeUserfault finds nothing.
func ProbeUserfault() Probe { return absentHere() }

// ProbeWPAsync finds nothing.
func ProbeWPAsync() Probe { return absentHere() }

// ProbeMissingShmem finds nothing.
func ProbeMissingShmem() Probe { return absentHere() }

// ProbeMissingHugetlbfs finds nothing.
func ProbeMissingHugetlbfs() Probe { return absentHere() }

// ProbeMinorShmem finds nothing.
func ProbeMinorShmem() Probe { return absentHere() }

// ProbePoison finds nothing.
func ProbePoison() Probe { return absentHere() }

// ProbePagemapScan finds nothing.
func ProbePagemapScan() Probe { return absentHere() }

// ProbeSoftDirty finds nothing.
func ProbeSoftDirty() Probe { return absentHere() }

// ProbeInject finds nothing.
func ProbeInject() Probe { return absentHere() }

// Process is nothing here.
type Process struct{}

// OpenProcess fails.
func OpenProcess(int) (*Process, error) { return nil, ErrNotLinux }

// PID is 0.
func (*Process) PID() int { return 0 }

// Alive is false.
func (*Process) Alive() bool { return false }

// Close does nothing.
func (*Process) Close() error { return nil }
