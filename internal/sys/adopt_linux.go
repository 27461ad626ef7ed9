package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// userfaultLink is where the descriptor of a userfaultfd leads in /proc/PID/fd.
const userfaultLink = "anon_inode:[userfaultfd]"

// featuresInitialized is the kernel's own mark in what fdinfo shows: API was called.
const featuresInitialized = 1 << 31

// Adopted is a userfaultfd that another process holds too.
type Adopted struct {
	// Fault is ours: the caller closes it.
	Fault *UserFault
	// RemoteFD is its number in the other process.
	RemoteFD int
	// Features are those that were negotiated for it; 0 if API was not called, or if the kernel does not tell.
	Features Features
}

// AdoptUserFaults takes a copy of each userfaultfd that a process holds, by number; the process keeps its own. A handler
// that takes over from one that died finds its userfaultfd so. It needs what ptrace needs. On an error nothing is kept.
func AdoptUserFaults(pid int) (out []Adopted, err error) {
	pidfd, err := openPidfd(pid)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(pidfd) }() // only asked
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, a := range out {
				_ = a.Fault.Close() // only a copy
			}
			out = nil
		}
	}()
	for _, e := range entries {
		link, linkErr := os.Readlink(dir + "/" + e.Name())
		n, numErr := strconv.Atoi(e.Name())
		if linkErr != nil || numErr != nil || link != userfaultLink {
			continue // closed meanwhile, or something else
		}
		u, err := fetchUserFault(pidfd, n)
		if err != nil {
			return out, err
		}
		out = append(out, Adopted{Fault: u, RemoteFD: n, Features: featuresOf(pid, n)})
	}
	return out, nil
}

// fetchUserFault copies descriptor n of the process that a pidfd stands for. When that has ended it is ESRCH, and not
// a descriptor of another process that got the number.
func fetchUserFault(pidfd, n int) (*UserFault, error) {
	fd, err := unix.PidfdGetfd(pidfd, n, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_getfd", err)
	}
	return UserFaultFromFD(fd), nil
}

// openPidfd gives a pidfd, which the caller closes.
func openPidfd(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	return fd, nil
}

// featuresOf reads /proc/PID/fdinfo/N.
func featuresOf(pid, n int) Features {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, n))
	if err != nil {
		return 0
	}
	return parseFeatures(string(text))
}

// parseFeatures finds the line "API: version:negotiated:available", in hexadecimal.
func parseFeatures(fdinfo string) Features {
	for line := range strings.Lines(fdinfo) {
		rest, ok := strings.CutPrefix(line, "API:")
		if !ok {
			continue
		}
		if fields := strings.Split(strings.TrimSpace(rest), ":"); len(fields) == 3 {
			got, err := strconv.ParseUint(fields[1], 16, 64)
			if err == nil {
				return Features(got) &^ featuresInitialized
			}
		}
	}
	return 0
}
