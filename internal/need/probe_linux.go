package need

import (
	"os/exec"
	"syscall"
)

// probeNetns starts a program that ends at once in a network namespace of its
// own; the namespace ends with it.
func probeNetns() *absence {
	if lack := root(); lack != nil {
		return lack
	}
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		return &absence{
			reason: "cannot create a network namespace: " + err.Error(),
			remedy: "grant CAP_SYS_ADMIN (in a container: --privileged) on a kernel with CONFIG_NET_NS",
		}
	}
	return nil
}
