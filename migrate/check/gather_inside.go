package check

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// view makes the view of a host and reads its qemu.conf through it.
func (g *gatherer) view(ctx context.Context, uri string) (v View, conf Answer[QEMUConf], why error) {
	type opened struct{ v View }
	a := ask(ctx, g, func(ctx context.Context) (opened, error) {
		v, err := g.o.Open(ctx, uri)
		return opened{v}, err
	})
	switch {
	case !a.OK:
		return nil, CouldNotTell[QEMUConf](a.Why), errors.New(a.Why)
	case a.Value.v == nil:
		return nil, CouldNotTell[QEMUConf]("there is no way to look at the host's files"), nil
	}
	conf = ask(ctx, g, func(ctx context.Context) (QEMUConf, error) {
		text, err := a.Value.v.ReadFile(ctx, qemuConfPath)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return QEMUConf{}, err
		}
		return parseQEMUConf(text), nil
	})
	return a.Value.v, conf, nil
}

// userfault looks at what decides over userfaultfd at the destination.
func (g *gatherer) userfault(ctx context.Context, dst HostSide) Answer[UserfaultFacts] {
	v := g.dstView
	if v == nil {
		return CouldNotTell[UserfaultFacts]("there is no way to look at the destination" + because(g.dstErr))
	}
	u := UserfaultFacts{DeviceAllowed: true}
	u.Sysctl = ask(ctx, g, func(ctx context.Context) (string, error) {
		b, err := v.ReadFile(ctx, "/proc/sys/vm/unprivileged_userfaultfd")
		u.Missing = errors.Is(err, fs.ErrNotExist)
		return string(b), err
	})
	u.Device = ask(ctx, g, func(ctx context.Context) (*sys.FileInfo, error) { return statOrNil(ctx, v, userfaultDevice) })
	u.User = g.qemuUser(ctx, v, dst)
	if bareQEMU(dst) {
		u.Privileged = ask(ctx, g, func(ctx context.Context) (bool, error) {
			_, ptrace, err := v.Owner(ctx)
			return ptrace, err
		})
		return Known(u)
	}
	conf := dst.Conf
	u.Privileged = Answer[bool]{Value: u.User.OK && u.User.Value.UID == 0 && conf.Value.KeepCapabilities, OK: conf.OK, Why: conf.Why}
	// Since 9.1 libvirt lets every QEMU see the device.
	since := migrate.Version{Major: 9, Minor: 1}
	u.DeviceAllowed = conf.Value.seesUserfault() && dst.Facts.OK &&
		(conf.Value.DeviceACL != nil || !dst.Facts.Value.LibVer.Less(since))
	return Known(u)
}

func utoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func statOrNil(ctx context.Context, v Inside, path string) (*sys.FileInfo, error) {
	info, err := v.Stat(ctx, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &info, nil
}

// qemuUser finds out who QEMU runs as on a host: itself if it is a bare one, the daemon's user if that is not root, else
// whom qemu.conf names or libvirt was built with.
func (g *gatherer) qemuUser(ctx context.Context, v View, side HostSide) Answer[Account] {
	return ask(ctx, g, func(ctx context.Context) (Account, error) {
		uid, _, err := v.Owner(ctx)
		if err != nil {
			return Account{}, err
		}
		passwd, err := v.ReadFile(ctx, "/etc/passwd")
		if err != nil {
			return Account{}, err
		}
		group, err := v.ReadFile(ctx, "/etc/group")
		if err != nil {
			return Account{}, err
		}
		candidates := []string{side.Conf.Value.User}
		switch {
		case bareQEMU(side) || uid != 0:
			candidates = []string{"+" + utoa(uid)}
		case side.Conf.Value.User == "" && side.Conf.OK:
			candidates = []string{"libvirt-qemu", "qemu"}
		}
		for _, who := range candidates {
			if a, ok := parseAccount(passwd, group, who); ok && who != "" {
				return a, nil
			}
		}
		return Account{}, errors.New("who QEMU runs as is not known: " + orUnknown(strings.Join(candidates, ", ")))
	})
}

// certs looks at the certificates that the migration will use, as far as we can see the hosts' files.
func (g *gatherer) certs(ctx context.Context, src, dst HostSide) []CertFacts {
	var out []CertFacts
	libvirt := dst.Facts.OK && dst.Facts.Value.Driver == driverLibvirt
	if g.p.TLS && libvirt {
		name := g.p.TLSDestination
		if name == "" {
			name = g.destinationHost(dst)
		}
		sdir, ddir := g.tlsDir(ctx, g.srcView, src.Conf), g.tlsDir(ctx, g.dstView, dst.Conf)
		client := CertFacts{Side: migrate.SideSource, Use: "migration", CAPath: path.Join(sdir, "ca-cert.pem")}
		if dst.Conf.OK && dst.Conf.Value.TLSVerify {
			client.CertPath, client.KeyPath = path.Join(sdir, "client-cert.pem"), path.Join(sdir, "client-key.pem")
		}
		server := CertFacts{Side: migrate.SideDestination, Use: "migration", Server: true, Name: name,
			CAPath: path.Join(ddir, "ca-cert.pem"), CertPath: path.Join(ddir, "server-cert.pem"), KeyPath: path.Join(ddir, "server-key.pem")}
		out = append(out, g.pair(ctx, client, server, g.readers(ctx, src, dst))...)
	}
	uri := g.p.PeerURI
	if uri == "" {
		uri = g.dst.URI()
	}
	if host, _, ok := daemonPort(uri); g.p.PeerToPeer && ok && isTLS(uri) {
		const ca, dir = "/etc/pki/CA/cacert.pem", "/etc/pki/libvirt"
		root := Known(Account{Name: "root"})
		out = append(out, g.pair(ctx,
			CertFacts{Side: migrate.SideSource, Use: "libvirt's daemons", CAPath: ca,
				CertPath: dir + "/clientcert.pem", KeyPath: dir + "/private/clientkey.pem"},
			CertFacts{Side: migrate.SideDestination, Use: "libvirt's daemons", Server: true, Name: host, CAPath: ca,
				CertPath: dir + "/servercert.pem", KeyPath: dir + "/private/serverkey.pem"},
			[2]Answer[Account]{root, root})...)
	}
	return out
}

func isTLS(uri string) bool {
	scheme, _, _ := strings.Cut(uri, ":")
	return scheme == "qemu" || scheme == "qemu+tls"
}

// readers are those who have to read the keys of source and destination.
func (g *gatherer) readers(ctx context.Context, src, dst HostSide) [2]Answer[Account] {
	var out [2]Answer[Account]
	for i, s := range []struct {
		v    View
		side HostSide
	}{{g.srcView, src}, {g.dstView, dst}} {
		out[i] = CouldNotTell[Account]("there is no way to look at the host")
		if s.v != nil {
			out[i] = g.qemuUser(ctx, s.v, s.side)
		}
	}
	return out
}

// tlsDir is where libvirt looks for the certificates for migration.
func (g *gatherer) tlsDir(ctx context.Context, v View, conf Answer[QEMUConf]) string {
	if conf.Value.TLSDir != "" {
		return conf.Value.TLSDir
	}
	if v != nil {
		if has := ask(ctx, g, func(ctx context.Context) (bool, error) { return exists(ctx, v, migrationTLSDir) }); has.Value {
			return migrationTLSDir
		}
	}
	if conf.Value.DefaultTLSDir != "" {
		return conf.Value.DefaultTLSDir
	}
	return defaultTLSDir
}

// pair reads the files of both ends and gives each the other's CA.
func (g *gatherer) pair(ctx context.Context, client, server CertFacts, readers [2]Answer[Account]) []CertFacts {
	g.readCert(ctx, g.srcView, g.srcErr, &client)
	g.readCert(ctx, g.dstView, g.dstErr, &server)
	client.Reader, server.Reader = readers[0], readers[1]
	client.PeerCA, server.PeerCA = server.CA, client.CA
	return []CertFacts{client, server}
}

func (g *gatherer) readCert(ctx context.Context, v View, viewErr error, c *CertFacts) {
	if v == nil {
		why := "there is no way to look at the host's files" + because(viewErr)
		c.CA = CouldNotTell[[]byte](why)
		if c.CertPath != "" {
			c.Cert, c.Key = CouldNotTell[[]byte](why), CouldNotTell[*sys.FileInfo](why)
		}
		return
	}
	c.CA = g.readOrNil(ctx, v, c.CAPath)
	if c.CertPath != "" {
		c.Cert = g.readOrNil(ctx, v, c.CertPath)
		c.Key = ask(ctx, g, func(ctx context.Context) (*sys.FileInfo, error) { return statOrNil(ctx, v, c.KeyPath) })
	}
}

// readOrNil reads a file; nil if there is none.
func (g *gatherer) readOrNil(ctx context.Context, v Inside, path string) Answer[[]byte] {
	return ask(ctx, g, func(ctx context.Context) ([]byte, error) {
		b, err := v.ReadFile(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return b, err
	})
}
