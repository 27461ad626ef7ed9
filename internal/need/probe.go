package need

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const (
	kvmDevice   = "/dev/kvm"
	uffdDevice  = "/dev/userfaultfd"
	uffdSysctl  = "/proc/sys/vm/unprivileged_userfaultfd"
	qemuBinary  = "qemu-system-x86_64"
	qemuRemedy  = "make install-test, or apt install qemu-system-x86"
	rootRemedy  = "run the tests as root"
	nbdRemedy   = "make install-test, or apt install nbdkit libnbd-bin qemu-utils"
	virtdRemedy = "make install-test, which starts no service; or apt install libvirt-daemon-system libvirt-clients"
)

// probeQEMU reports whether QEMU can be started.
func probeQEMU() *absence { return inPath(qemuBinary, qemuRemedy) }

// probeLibvirt reports whether a libvirtd of our own could be started.
func probeLibvirt() *absence {
	if lack := root(); lack != nil {
		return lack
	}
	for _, name := range []string{"libvirtd", "virsh"} {
		if lack := inPath(name, virtdRemedy); lack != nil {
			return lack
		}
	}
	return probeQEMU()
}

// probeNBD reports whether there are other NBD clients and servers to talk to.
func probeNBD() *absence {
	for _, name := range []string{"nbdkit", "nbdinfo", "nbdcopy", "qemu-nbd", "qemu-img", "qemu-io"} {
		if lack := inPath(name, nbdRemedy); lack != nil {
			return lack
		}
	}
	return nil
}

// probeKVM opens the device, as its mere presence does not mean permission.
func probeKVM() *absence {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		return &absence{
			reason: err.Error(),
			remedy: "load kvm_intel or kvm_amd, or enable nested virtualisation, and grant access to " + kvmDevice,
		}
	}
	_ = f.Close() // nothing was asked of it
	return nil
}

// probeUFFD accepts the device node where it can be opened, and otherwise the
// system call where the sysctl says that it exists and that we may use it.
func probeUFFD() *absence {
	if f, err := os.OpenFile(uffdDevice, os.O_RDWR, 0); err == nil {
		_ = f.Close() // nothing was asked of it
		return nil
	}
	allowed, err := os.ReadFile(uffdSysctl)
	return uffdBySysctl(string(allowed), err, os.Geteuid() == 0)
}

// uffdBySysctl decides from the sysctl's content, or the error of reading it.
func uffdBySysctl(content string, err error, isRoot bool) *absence {
	if err != nil {
		return &absence{
			reason: "the kernel has no userfaultfd: " + err.Error(),
			remedy: "boot a kernel with CONFIG_USERFAULTFD",
		}
	}
	if isRoot || strings.TrimSpace(content) == "1" {
		return nil
	}
	return &absence{
		reason: "userfaultfd is for root alone on this machine",
		remedy: fmt.Sprintf("%s, or grant %s, or set vm.unprivileged_userfaultfd=1", rootRemedy, uffdDevice),
	}
}

// root reports whether we are the superuser.
func root() *absence {
	if os.Geteuid() == 0 {
		return nil
	}
	return &absence{reason: "not root", remedy: rootRemedy}
}

// inPath looks a program up in PATH.
func inPath(name, remedy string) *absence {
	if _, err := exec.LookPath(name); err != nil {
		return &absence{reason: name + " is not in PATH", remedy: remedy}
	}
	return nil
}
