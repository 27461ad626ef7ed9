package libvirthost

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// environment is what the look-up of names and sockets needs to know of the process and the machine.
type environment struct {
	get  func(string) string
	read func(string) ([]byte, error)
	// exists tells whether there is something at a path.
	exists func(string) bool
	uid    int
	home   string
}

func defaultEnv() environment {
	home, _ := os.UserHomeDir()
	return environment{
		get:  os.Getenv,
		read: os.ReadFile,
		exists: func(p string) bool {
			_, err := os.Stat(p)
			return err == nil
		},
		uid: os.Getuid(), home: home,
	}
}

// clientConf is what libvirt.conf says.
type clientConf struct {
	path    string
	aliases map[string]string
	deflt   string
}

// confPath is the one libvirt.conf that libvirt's own client would read: root's is the system's, and another user's
// own comes first.
func (e environment) confPaths() []string {
	system := "/etc/libvirt/libvirt.conf"
	if e.uid == 0 {
		return []string{system}
	}
	dir := e.get("XDG_CONFIG_HOME")
	if dir == "" {
		dir = filepath.Join(e.home, ".config")
	}
	return []string{filepath.Join(dir, "libvirt", "libvirt.conf"), system}
}

// conf reads the first libvirt.conf there is. None is no error.
func (e environment) conf() (clientConf, error) {
	for _, p := range e.confPaths() {
		b, err := e.read(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return clientConf{}, migrate.Fail("read libvirt's client configuration", "", err, "make "+p+" readable")
		}
		c, err := parseConf(string(b))
		if err != nil {
			return clientConf{}, migrate.Fail("read "+p, "", err, "correct that line of "+p)
		}
		c.path = p
		return c, nil
	}
	return clientConf{}, nil
}

var (
	confDefault = regexp.MustCompile(`^uri_default\s*=\s*(?:"([^"]*)"|'([^']*)')\s*(?:#.*)?$`)
	confItem    = regexp.MustCompile(`"([^"]*)"|'([^']*)'|(#.*)`)
	confAlias   = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
)

// parseConf reads uri_default and uri_aliases, the two settings of libvirt.conf, and leaves others alone.
func parseConf(text string) (clientConf, error) {
	c := clientConf{aliases: map[string]string{}}
	sc := bufio.NewScanner(strings.NewReader(text))
	in := false
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if !in {
			if m := confDefault.FindStringSubmatch(line); m != nil {
				c.deflt = m[1] + m[2]
				continue
			}
			key, rest, ok := strings.Cut(line, "=")
			if !ok || strings.TrimSpace(key) != "uri_aliases" {
				continue
			}
			line, in = strings.TrimSpace(rest), true
		}
		done, err := c.addAliases(line)
		if err != nil {
			return c, fmt.Errorf("line %d: %w", n, err)
		}
		in = !done
	}
	if err := sc.Err(); err != nil {
		return c, err
	}
	if in {
		return c, errors.New("the list uri_aliases does not end")
	}
	return c, nil
}

// addAliases reads one line of the list; done tells that the list ends on it.
func (c *clientConf) addAliases(line string) (done bool, err error) {
	for _, m := range confItem.FindAllStringSubmatch(line, -1) {
		if m[3] != "" {
			break
		}
		name, uri, ok := strings.Cut(m[1]+m[2], "=")
		if !ok || !confAlias.MatchString(name) {
			return false, fmt.Errorf("%q is not NAME=URI with a name of letters, digits, '_', '.' and '-'", m[0])
		}
		c.aliases[name] = uri
	}
	bare := confItem.ReplaceAllString(line, "")
	return strings.Contains(bare, "]"), nil
}

// resolve turns what the user wrote into a URI: an alias of libvirt.conf, or nothing at all, for which
// LIBVIRT_DEFAULT_URI, uri_default and the usual daemon of the user are tried in this order.
func (e environment) resolve(uri string) (string, error) {
	if uri == "" {
		uri = e.get("LIBVIRT_DEFAULT_URI")
	}
	if strings.Contains(uri, ":") {
		return uri, nil
	}
	c, err := e.conf()
	if err != nil {
		return "", err
	}
	if uri == "" {
		uri = c.deflt
	}
	if strings.Contains(uri, ":") {
		return uri, nil
	}
	if uri != "" {
		if full, ok := c.aliases[uri]; ok {
			return full, nil
		}
		return "", uriError(uri, uriForms+", or an alias of "+e.confPaths()[0], "there is no such alias")
	}
	if e.uid == 0 {
		return "qemu:///system", nil
	}
	return "qemu:///session", nil
}

// socketNames are the sockets of the two kinds of daemon.
var socketNames = map[string]string{"direct": "virtqemud-sock", "legacy": "libvirt-sock"}

// socketPath is where a daemon's socket usually is.
func socketPath(path, name string, e environment) string {
	if path == "/system" {
		return filepath.Join("/run/libvirt", name)
	}
	if dir := e.get("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "libvirt", name)
	}
	return filepath.Join(e.home, ".cache", "libvirt", name)
}

// findSocket chooses the daemon as libvirt does: the QEMU driver's own if it is there, else the one for all drivers.
func (e environment) findSocket(t target) string {
	if t.socket != "" {
		return t.socket
	}
	if p := socketPath(t.path, socketNames["direct"], e); e.exists(p) {
		return p
	}
	return socketPath(t.path, socketNames["legacy"], e)
}
