package guest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The accelerators that a guest can run with.
const (
	TCG = "tcg"
	KVM = "kvm"
)

// CPU is QEMU's -cpu for an accelerator: the one that a Linux guest boots
// fastest with.
func CPU(accel string) string {
	if accel == KVM {
		return "host"
	}
	return "max"
}

// probeTime is how long a guest may take to boot under KVM before TCG is
// thought to be better.
const probeTime = 10 * time.Second

// probe boots a Linux guest under KVM and says whether it came up.
type probe func(ctx context.Context, a Assets) bool

// Accel finds the assets and says which accelerator Linux guests get on this
// machine: KVM where one boots under it, else TCG. See Assets.Accel.
func Accel(ctx context.Context) (string, error) {
	a, err := Find()
	if err != nil {
		return "", err
	}
	return a.Accel(ctx)
}

// Accel says which accelerator Linux guests get on this machine. The first
// call boots one, which takes at most some ten seconds, and keeps the answer
// beside the assets; it is asked anew when the machine's kernel or its
// /dev/kvm changed. An answer that cannot be kept is still an answer. The
// error is of a machine without QEMU, or of ctx.
func (a Assets) Accel(ctx context.Context) (string, error) {
	if _, err := exec.LookPath(qemuProgram); err != nil {
		return "", fmt.Errorf("accelerator: %w: install qemu-system-x86", err)
	}
	return a.accel(ctx, machineKey(), bootsUnderKVM)
}

func (a Assets) accel(ctx context.Context, key string, boots probe) (string, error) {
	path := filepath.Join(a.Dir, accelFile)
	if b, err := os.ReadFile(path); err == nil {
		if accel, ok := cachedAccel(string(b), key); ok {
			return accel, nil
		}
	}
	accel := TCG
	if boots(ctx, a) {
		accel = KVM
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("accelerator: %w", context.Cause(ctx))
	}
	_ = writeFile(path, []byte(accel+"\n"+key+"\n")) // asked anew next time
	return accel, nil
}

// cachedAccel reads a kept answer, if it is about this machine.
func cachedAccel(text, key string) (string, bool) {
	accel, rest, _ := strings.Cut(text, "\n")
	if rest != key+"\n" || (accel != TCG && accel != KVM) {
		return "", false
	}
	return accel, true
}

// machineKey is a line that changes when another answer may be right.
func machineKey() string {
	var u unix.Utsname
	release := "unknown"
	if err := unix.Uname(&u); err == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return release + " without kvm"
	}
	f.Close()
	return release + " with kvm"
}

const qemuProgram = "qemu-system-x86_64"

// bootsUnderKVM starts a guest without network and disk and waits for the first
// word of its program.
func bootsUnderKVM(ctx context.Context, a Assets) bool {
	if strings.HasSuffix(machineKey(), "without kvm") {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	args := append([]string{"-machine", "q35", "-accel", KVM, "-cpu", CPU(KVM), "-m", "256", "-nodefaults", "-no-user-config",
		"-display", "none", "-vga", "none", "-serial", "stdio", "-no-reboot", "-kernel", a.Kernel(), "-initrd", a.Initrd()},
		"-append", kernelWords)
	cmd := exec.CommandContext(ctx, qemuProgram, args...)
	// Should something keep the pipe open after QEMU has gone, do not wait for it.
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false
	}
	if err := cmd.Start(); err != nil {
		return false
	}
	up := sawGuest(out)
	cancel()
	_ = cmd.Wait() // it was killed, or it failed, which is an answer too
	return up
}

// sawGuest reads a console until the guest's program has said something.
func sawGuest(console io.Reader) bool {
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<16)
	for lines.Scan() {
		if strings.Contains(lines.Text(), ConsolePrefix) {
			return true
		}
	}
	return false
}

// ConsolePrefix begins each line that the guest's program writes on the console.
const ConsolePrefix = "vmmigrate-guest:"
