package domain

import (
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
)

// Files of a QEMU that runs without libvirt, as the host sees them.
type Files struct {
	// Watch is the path of a QMP socket for the lab beside Spec.Monitor, Pid that of
	// the file with its process number.
	Watch, Pid string
	// Tap is the name of its network device on the host, Join a program that is given
	// that name and connects it.
	Tap, Join string
}

// Args are QEMU's arguments for the same machine as XML describes. It
// goes into the background once its monitors can be reached. With incoming it waits
// for a migration and runs nothing.
func Args(s Spec, f Files, incoming bool) []string {
	accel, cpu := "tcg", "qemu64"
	if s.KVM {
		accel, cpu = "kvm", "host,migratable=on"
	}
	args := []string{
		"-name", s.Name + ",debug-threads=on", "-accel", accel, "-cpu", cpu,
		"-m", fmt.Sprintf("%dk", s.Memory>>10), "-smp", fmt.Sprint(s.CPUs),
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-action", "reboot=shutdown",
		"-kernel", s.Kernel, "-initrd", s.Initrd, "-append", s.Cmdline,
		"-netdev", "tap,id=net0,ifname=" + f.Tap + ",script=" + f.Join + ",downscript=no",
		"-device", "virtio-net-pci,netdev=net0,romfile=,mac=" + s.MAC,
		"-chardev", "file,id=console,append=on,path=" + s.Console, "-serial", "chardev:console",
		"-qmp", "unix:" + s.Monitor + ",server=on,wait=off", "-qmp", "unix:" + f.Watch + ",server=on,wait=off",
		"-pidfile", f.Pid, "-daemonize",
	}
	args = append(append(args, memory(s)...), disks(s)...)
	if incoming {
		args = append(args, "-incoming", "defer")
	}
	return args
}

// memory are the arguments for the RAM blocks, with libvirt's names.
func memory(s Spec) []string {
	if s.NUMA == 0 {
		return []string{"-object", block(s, "pc.ram", s.Memory), "-machine", "q35,memory-backend=pc.ram"}
	}
	args := []string{"-machine", "q35"}
	for i, c := range cells(s) {
		node := fmt.Sprintf("ram-node%d", i)
		numa := fmt.Sprintf("node,nodeid=%d,memdev=%s", i, node)
		if c.CPUs != "" {
			numa += ",cpus=" + c.CPUs
		}
		args = append(args, "-object", block(s, node, s.Memory/uint64(s.NUMA)), "-numa", numa)
	}
	return args
}

// disks are the arguments for the disks, with libvirt's names for the devices.
func disks(s Spec) []string {
	var args []string
	for i, d := range s.Disks {
		file, node := d.Name+"-file", d.Name+"-"+d.Format
		args = append(args, "-blockdev", "driver=file,node-name="+file+",discard=unmap,filename="+strings.ReplaceAll(d.Path, ",", ",,"),
			"-blockdev", "driver="+d.Format+",node-name="+node+",discard=unmap,file="+file,
			"-device", fmt.Sprintf("virtio-blk-pci,id=virtio-disk%d,drive=%s", i, node))
	}
	return args
}

// block is one RAM block. Huge pages have to come from a file system of them.
func block(s Spec, id string, size uint64) string {
	switch {
	case s.PageSize > 0:
		return fmt.Sprintf("memory-backend-file,id=%s,size=%d,share=%s,mem-path=%s", id, size, onOff(s.Shared), RAMFile(s, id))
	case s.Shared:
		return fmt.Sprintf("memory-backend-file,id=%s,size=%d,share=on,mem-path=%s", id, size, RAMFile(s, id))
	default:
		return fmt.Sprintf("memory-backend-ram,id=%s,size=%d", id, size)
	}
}

// RAMFile is where the file of a RAM block is on the host.
func RAMFile(s Spec, id string) string {
	dir := layout.RAMDir
	if s.PageSize > 0 {
		dir = layout.HugePagesDir
	}
	return dir + "/" + s.Name + "." + id
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
