package check

import (
	"bufio"
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// QEMUConf is what concerns us of libvirt's qemu.conf. The zero value has libvirt's defaults.
type QEMUConf struct {
	// User and Group that QEMU runs as; "" is what libvirt was built with.
	User, Group string
	// MigrationHost replaces the host name in the migrate URI, MigrationAddress is where QEMU listens.
	MigrationHost, MigrationAddress string
	// PortMin and PortMax are the range that libvirt chooses ports from; 0 is its default.
	PortMin, PortMax int
	// TLSDir holds the certificates for migration, DefaultTLSDir those for everything without a folder of its own.
	TLSDir, DefaultTLSDir string
	// TLSVerify tells that clients need a certificate too.
	TLSVerify bool
	// MemoryDir holds the RAM of guests whose memory is a file.
	MemoryDir string
	// KeepCapabilities tells that QEMU, if it runs as root, keeps root's privileges.
	KeepCapabilities bool
	// DeviceACL are the devices that QEMU may see; nil is libvirt's default.
	DeviceACL []string
	// SecurityDrivers are those that confine QEMU; nil is what the host has.
	SecurityDrivers []string
}

// The defaults of libvirt.
const (
	defaultPortMin   = 49152
	defaultPortMax   = 49215
	defaultTLSDir    = "/etc/pki/qemu"
	migrationTLSDir  = "/etc/pki/libvirt-migrate"
	defaultMemoryDir = "/var/lib/libvirt/qemu/ram"
	qemuConfPath     = "/etc/libvirt/qemu.conf"
)

// ports gives the range that migrations get their ports from.
func (c QEMUConf) ports() (low, high int) {
	low, high = c.PortMin, c.PortMax
	if low == 0 {
		low = defaultPortMin
	}
	if high == 0 {
		high = defaultPortMax
	}
	return low, high
}

// memoryDir gives the folder for RAM files.
func (c QEMUConf) memoryDir() string {
	if c.MemoryDir == "" {
		return defaultMemoryDir
	}
	return c.MemoryDir
}

// seesUserfault tells whether QEMU may see /dev/userfaultfd.
func (c QEMUConf) seesUserfault() bool {
	return c.DeviceACL == nil || slices.Contains(c.DeviceACL, userfaultDevice)
}

// parseQEMUConf reads the settings we know; others are passed over.
func parseQEMUConf(text []byte) QEMUConf {
	set := parseConf(text)
	num := func(key string) int {
		n, _ := strconv.Atoi(first(set[key])) // what is no number is as good as unset
		return n
	}
	c := QEMUConf{
		User: first(set["user"]), Group: first(set["group"]),
		MigrationHost: first(set["migration_host"]), MigrationAddress: first(set["migration_address"]),
		PortMin: num("migration_port_min"), PortMax: num("migration_port_max"),
		TLSDir: first(set["migrate_tls_x509_cert_dir"]), DefaultTLSDir: first(set["default_tls_x509_cert_dir"]),
		MemoryDir:        first(set["memory_backing_dir"]),
		KeepCapabilities: first(set["clear_emulator_capabilities"]) == "0",
		DeviceACL:        set["cgroup_device_acl"],
		SecurityDrivers:  set["security_driver"],
	}
	verify, ok := set["migrate_tls_x509_verify"]
	if !ok {
		verify, ok = set["default_tls_x509_verify"]
	}
	c.TLSVerify = !ok || first(verify) != "0"
	return c
}

func first(vs []string) string {
	if len(vs) == 0 {
		return ""
	}
	return vs[0]
}

// parseConf reads libvirt's configuration format: key = "string", key = number, key = [ "list", "over lines" ].
func parseConf(text []byte) map[string][]string {
	out := map[string][]string{}
	key, open := "", false
	sc := bufio.NewScanner(bytes.NewReader(text))
	sc.Buffer(nil, maxFile)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if !open {
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				continue
			}
			key, line = strings.TrimSpace(k), strings.TrimSpace(v)
			open = strings.HasPrefix(line, "[")
			out[key] = []string{}
		}
		out[key] = append(out[key], confValues(line)...)
		if strings.HasSuffix(stripComment(line), "]") {
			open = false
		}
	}
	return out
}

// confValues gives the values on one line, without quotes.
func confValues(line string) []string {
	var out []string
	for line != "" {
		switch c := line[0]; {
		case c == '#':
			return out
		case c == '"' || c == '\'':
			end := strings.IndexByte(line[1:], c)
			if end < 0 {
				return out
			}
			out = append(out, line[1:1+end])
			line = line[end+2:]
		case strings.IndexByte(" \t,[]", c) >= 0:
			line = line[1:]
		default:
			end := strings.IndexAny(line, " \t,]#")
			if end < 0 {
				end = len(line)
			}
			out = append(out, line[:end])
			line = line[end:]
		}
	}
	return out
}

// stripComment drops what follows a # that is not in quotes.
func stripComment(line string) string {
	quote := byte(0)
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			return strings.TrimSpace(line[:i])
		}
	}
	return line
}

// parseAccount finds a user in passwd and all of his groups in group. who is a name, or +UID, or a UID.
func parseAccount(passwd, group []byte, who string) (Account, bool) {
	id := strings.TrimPrefix(who, "+")
	for line := range strings.Lines(string(passwd)) {
		p := strings.Split(strings.TrimSpace(line), ":")
		if len(p) < 4 || p[0] != who && p[2] != id {
			continue
		}
		uid, err1 := strconv.ParseUint(p[2], 10, 32)
		gid, err2 := strconv.ParseUint(p[3], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		return Account{Name: p[0], UID: uint32(uid), GIDs: append([]uint32{uint32(gid)}, memberOf(group, p[0])...)}, true
	}
	if uid, err := strconv.ParseUint(id, 10, 32); err == nil {
		return Account{Name: who, UID: uint32(uid)}, true
	}
	return Account{}, false
}

// memberOf lists the groups that name the user.
func memberOf(group []byte, user string) []uint32 {
	var out []uint32
	for line := range strings.Lines(string(group)) {
		g := strings.Split(strings.TrimSpace(line), ":")
		if len(g) < 4 || !slices.Contains(strings.Split(g[3], ","), user) {
			continue
		}
		if gid, err := strconv.ParseUint(g[2], 10, 32); err == nil {
			out = append(out, uint32(gid))
		}
	}
	return out
}
