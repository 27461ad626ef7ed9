package layout

import (
	"fmt"
	"strings"
)

// EtcFiles returns the files that the host has of its own below /etc, by path,
// except its certificates.
func (p Plan) EtcFiles(h Host) map[string]string {
	return map[string]string{
		"hosts":                       p.hostsFile(),
		"hostname":                    h.Name + "\n",
		"libvirt/libvirtd.conf":       h.libvirtdConf(),
		"libvirt/qemu.conf":           h.qemuConf(p.HugePages),
		"libvirt/libvirt.conf":        "",
		"libvirt/storage/default.xml": poolXML,
	}
}

// EtcLinks returns the symbolic links below the host's /etc, target by path.
func EtcLinks() map[string]string {
	return map[string]string{
		"libvirt/storage/autostart/default.xml": "/etc/libvirt/storage/default.xml",
	}
}

// EtcPrivate are the names in /etc that are the host's own.
func EtcPrivate() []string { return []string{"hosts", "hostname", "libvirt", "pki"} }

func (p Plan) hostsFile() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
	for _, h := range p.Hosts {
		fmt.Fprintf(&b, "%s %s\n", h.Address.Addr(), h.Name)
	}
	return b.String()
}

// libvirtdConf listens without authentication: nothing but the hosts of the lab
// and root on the machine can reach it.
func (h Host) libvirtdConf() string {
	return fmt.Sprintf(`host_uuid = "%s"
listen_tls = 1
listen_tcp = 1
tls_port = "16514"
tcp_port = "16509"
auth_unix_ro = "none"
auth_unix_rw = "none"
auth_tcp = "none"
auth_tls = "none"
unix_sock_group = "root"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
tls_no_sanity_certificate = 1
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`, h.UUID)
}

// qemuConf keeps QEMU away from everything outside the host's directories: no
// cgroups, no ownership changes, no device namespaces. The capabilities stay, so
// that QEMU's own post-copy works whatever vm.unprivileged_userfaultfd says.
//
// libvirt is told where huge pages are, or that there are none, since it would look
// for a mount of the machine's otherwise.
func (h Host) qemuConf(hugePages bool) string {
	mount := ""
	if hugePages {
		mount = HugePagesDir
	}
	return fmt.Sprintf(`user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
clear_emulator_capabilities = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
lock_manager = "nop"
migration_address = "%s"
memory_backing_dir = "%s"
hugetlbfs_mount = "%s"
default_tls_x509_cert_dir = "/etc/pki/qemu"
default_tls_x509_verify = 1
`, h.Address.Addr(), RAMDir, mount)
}

// poolXML is the storage pool in which libvirt creates the images of a guest that
// arrives with --copy-storage-all.
const poolXML = `<pool type='dir'>
  <name>default</name>
  <target>
    <path>` + ImagesDir + `</path>
  </target>
</pool>
`
