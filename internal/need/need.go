package need

import (
	"os"
	"testing"
)

// RequireEnv names the environment variable that turns skips into failures: a
// comma-separated list of feature names. Spaces and empty items are ignored.
const RequireEnv = "VMMIGRATE_REQUIRE"

// QEMU needs qemu-system-x86_64 in PATH.
func QEMU(t testing.TB) {
	t.Helper()
	need(t, featureQEMU, probeQEMU())
}

// Libvirt needs root, and libvirtd, virsh and qemu-system-x86_64 in PATH. It
// does not need a libvirtd to be running: tests start their own.
func Libvirt(t testing.TB) {
	t.Helper()
	need(t, featureLibvirt, probeLibvirt())
}

// Netns needs root and permission to create a network namespace.
func Netns(t testing.TB) {
	t.Helper()
	need(t, featureNetns, probeNetns())
}

// UFFD needs a kernel with userfaultfd, and permission to open one that also
// sees faults taken in kernel mode.
func UFFD(t testing.TB) {
	t.Helper()
	need(t, featureUFFD, probeUFFD())
}

// KVM needs a /dev/kvm that can be opened for reading and writing. It says
// nothing about which guests boot under it.
func KVM(t testing.TB) {
	t.Helper()
	need(t, featureKVM, probeKVM())
}

// NBD needs the NBD tools of other projects in PATH: nbdkit, libnbd's nbdinfo and
// nbdcopy, and QEMU's qemu-nbd, qemu-img and qemu-io.
func NBD(t testing.TB) {
	t.Helper()
	need(t, featureNBD, probeNBD())
}

// Guest needs the kernel and the initramfs of the lab's guests; err is what looking for them said.
func Guest(t testing.TB, err error) {
	t.Helper()
	var lack *absence
	if err != nil {
		lack = &absence{reason: err.Error(), remedy: "make assets"}
	}
	need(t, featureGuest, lack)
}

// need acts on the verdict: it returns, skips the test or fails it.
func need(t testing.TB, f feature, lack *absence) {
	t.Helper()
	v, text := decide(f, lack, os.Getenv(RequireEnv))
	switch v {
	case verdictRun:
	case verdictSkip:
		t.Skip(text)
	default:
		t.Fatal(text)
	}
}
