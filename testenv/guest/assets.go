package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmmigrate/vmmigrate/testenv/guest/param"
)

// EnvAssets names the environment variable that says where the assets are.
const EnvAssets = "VMMIGRATE_ASSETS"

// The files in a directory of assets.
const (
	kernelFile = "kernel"
	initrdFile = "initrd.cpio"
	accelFile  = "accel"
)

// ErrNoAssets means that Find found no directory with a kernel and an initrd.
var ErrNoAssets = errors.New("no guest kernel: run `make build`, or set " + EnvAssets + " to a directory made by testenv/guest/mkassets")

// Assets is a directory with what a guest boots from.
type Assets struct {
	// Dir is the directory, absolute.
	Dir string
}

// Kernel is the path of the guest's kernel.
func (a Assets) Kernel() string { return filepath.Join(a.Dir, kernelFile) }

// Initrd is the path of the guest's initramfs.
func (a Assets) Initrd() string { return filepath.Join(a.Dir, initrdFile) }

// Find returns the first directory that holds the assets, in the order that
// the package documentation gives. A directory that EnvAssets names has to
// have them. The error wraps ErrNoAssets.
func Find() (Assets, error) {
	if dir := os.Getenv(EnvAssets); dir != "" {
		a, err := at(dir)
		if err != nil {
			return Assets{}, fmt.Errorf("%s=%s: %w: %w", EnvAssets, dir, ErrNoAssets, err)
		}
		return a, nil
	}
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Join(filepath.Dir(exe), "guest"))
	}
	if root, ok := moduleRoot(); ok {
		dirs = append(dirs, filepath.Join(root, "build", "guest"))
	}
	for _, dir := range dirs {
		if a, err := at(dir); err == nil {
			return a, nil
		}
	}
	return Assets{}, fmt.Errorf("looked in %s: %w", strings.Join(dirs, " and "), ErrNoAssets)
}

// at returns the assets in dir if they are there.
func at(dir string) (Assets, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Assets{}, err
	}
	a := Assets{Dir: dir}
	for _, path := range []string{a.Kernel(), a.Initrd()} {
		if _, err := os.Stat(path); err != nil {
			return Assets{}, err
		}
	}
	return a, nil
}

// moduleRoot is the closest directory above the working directory that has a
// go.mod.
func moduleRoot() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}

// Config is one guest: its name, address, network card, workload and seed.
type Config = param.Config

// Boot is what QEMU (-kernel, -initrd, -append) or libvirt (<kernel>,
// <initrd>, <cmdline>) needs to start a guest. Both paths have to be readable
// at both ends of a migration.
type Boot struct {
	Kernel  string
	Initrd  string
	Cmdline string
}

// kernelWords make the kernel quick and quiet. The console is the first serial
// port. A panic restarts the machine, which a witness reports, rather than
// leaving it hanging in silence; QEMU's -no-reboot ends it. The rest leaves out
// self-tests, key loading and hardening that a lab guest has no use for, and
// has the kernel clear and copy memory by words rather than by bytes: an
// emulated processor takes eight times as long by bytes. Together they halve
// the boot.
//
// The processor's own counter is the clock (tsc=reliable). The kernel distrusts
// it where there are several processors, and takes the HPET instead, which wraps
// after 43 s: a guest that stands still for 38 s to 43 s, as one may that waits
// for a page, was seen to be left without a timer ever after.
const kernelWords = "console=ttyS0 quiet panic=-1 mitigations=off audit=0 lsm=capability init_on_alloc=0 " +
	"tsc=reliable clearcpuid=erms,fsrm cryptomgr.notests 8250.nr_uarts=1 i8042.noaux i8042.nokbd " +
	"initcall_blacklist=load_system_certificate_list,jent_mod_init,bpf_tcp_ca_kfunc_init," +
	"bpf_dummy_struct_ops_init,bpf_sk_storage_map_iter_init"

// Boot says how to start the guest c. The error wraps param.ErrConfig.
func (a Assets) Boot(c Config) (Boot, error) {
	words, err := c.Words()
	if err != nil {
		return Boot{}, err
	}
	line := kernelWords + " " + strings.Join(words, " ")
	if len(line) > param.MaxCmdline {
		return Boot{}, fmt.Errorf("%w: command line of %d bytes, the kernel reads %d", param.ErrConfig, len(line), param.MaxCmdline)
	}
	return Boot{Kernel: a.Kernel(), Initrd: a.Initrd(), Cmdline: line}, nil
}

// Args are QEMU's arguments for the boot.
func (b Boot) Args() []string {
	return []string{"-kernel", b.Kernel, "-initrd", b.Initrd, "-append", b.Cmdline}
}

// MinMemory is the least RAM in bytes for a guest with a workload of so many
// bytes of memory (workload.Spec.Memory): the kernel, the program and its
// ledger beside the region.
func MinMemory(workload int64) int64 {
	return workload + workload/64 + 192<<20
}
