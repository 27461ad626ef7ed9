package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// userfaultDevice and userfaultNew are of linux/userfaultfd.h: the ioctl is _IO(0xAA, 0x00), its argument the flags of
// the new descriptor.
const (
	userfaultDevice = "/dev/userfaultfd"
	userfaultNew    = 0xAA00
)

// ProbeUserfault opens a userfaultfd that would also see faults taken in kernel mode, as post-copy of a KVM guest
// needs, by the device and then by the system call, in the order in which QEMU tries them, and closes it again. It
// speaks for this process alone: its user, capabilities and seccomp filter.
func ProbeUserfault() Probe {
	devErr := tryUserfaultDevice()
	if devErr == nil {
		return Probe{Presence: Present}
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno == 0 {
		_ = unix.Close(int(fd)) // nothing was asked of it
	}
	return userfaultVerdict(errno, devErr)
}

// tryUserfaultDevice opens a userfaultfd through the device and closes it.
func tryUserfaultDevice() error {
	f, err := os.OpenFile(userfaultDevice, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing was asked of it
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), userfaultNew, unix.O_CLOEXEC|unix.O_NONBLOCK)
	if errno != 0 {
		return &os.PathError{Op: "USERFAULTFD_IOC_NEW", Path: userfaultDevice, Err: errno}
	}
	_ = unix.Close(int(fd)) // nothing was asked of it
	return nil
}

// userfaultVerdict tells absent from refused from broken by what the system call said; devErr is why the device failed.
func userfaultVerdict(errno unix.Errno, devErr error) Probe {
	switch errno {
	case 0:
		return Probe{Presence: Present}
	case unix.ENOSYS:
		return Probe{Absent, "the kernel has no userfaultfd", "boot a kernel with CONFIG_USERFAULTFD"}
	case unix.EPERM, unix.EACCES:
		return Probe{Absent, fmt.Sprintf("userfaultfd is not permitted (%v)", devErr),
			"sysctl vm.unprivileged_userfaultfd=1"}
	}
	return Probe{Presence: Unknown, Reason: "userfaultfd: " + errno.Error()}
}
