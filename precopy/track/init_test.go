//go:build linux

package track_test

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// asInit makes a machine of which the test binary is the first program fit for tests, and gives what turns it off. It is for
// kernels that this machine does not run: TestT3InAGuest boots one.
func asInit() (powerOff func(code int)) {
	var errs []error
	for _, m := range []struct{ kind, on string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/dev/shm"}} {
		errs = append(errs, os.MkdirAll(m.on, 0o755), unix.Mount(m.kind, m.on, m.kind, 0, ""))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Println("init:", err)
	}
	return func(code int) {
		fmt.Println("exit code", code)
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // nothing can be done if it fails
	}
}
