package libvirthost

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Options are the rarely needed parts of Open. The zero value is good.
type Options struct {
	// Log gets what is odd but does not matter to the caller, such as a malformed event; nil drops it.
	Log *slog.Logger
	// DialTimeout bounds dialling, authentication and opening together; 0 is 20 s.
	DialTimeout time.Duration
}

// Host is a libvirt daemon. It implements migrate.Source, Destination, Custodian and PeerMigrator. All of its methods
// may be called from several goroutines.
type Host struct {
	t    target
	c    *conn
	hub  *hub
	log  *slog.Logger
	caps func(context.Context) (*libvirtxml.Caps, error)
	held holds
	gave tickets
	// monitors are those that were handed out.
	monitors monitors
	// daemon is the process at the other end of a unix socket, as it says itself; 0 if it was not seen.
	daemon int
	// patience is jobPatience, but for tests.
	patience time.Duration
}

var (
	_ migrate.Source        = (*Host)(nil)
	_ migrate.Destination   = (*Host)(nil)
	_ migrate.Custodian     = (*Host)(nil)
	_ migrate.PeerMigrator  = (*Host)(nil)
	_ migrate.EarlyFinisher = (*Host)(nil)
)

// Open connects to the libvirt daemon that uri names: a URI, an alias of libvirt.conf, or "" for the user's default.
// The caller closes the Host.
func Open(ctx context.Context, uri string, o Options) (*Host, error) {
	return open(ctx, uri, o, defaultEnv())
}

func open(ctx context.Context, uri string, o Options, e environment) (*Host, error) {
	full, err := e.resolve(uri)
	if err != nil {
		return nil, err
	}
	t, err := parseURI(full)
	if err != nil {
		return nil, err
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = dialTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.DialTimeout, errDialTimeout)
	defer cancel()
	raw, err := e.dial(ctx, t)
	if err != nil {
		return nil, dialFail(ctx, t, err)
	}
	h := &Host{t: t, hub: newHub(o.Log), log: o.Log, patience: jobPatience, daemon: peerOf(raw)}
	h.caps = onceOK(h.readCaps)
	h.c, err = newConn(ctx, raw, t.name, h.hub.take)
	if err != nil {
		if s, ok := raw.(*sshConn); ok && errors.Is(err, migrate.ErrLinkLost) {
			err = s.explain(err, t)
		}
		return nil, dialFail(ctx, t, err)
	}
	return h, nil
}

var errDialTimeout = kind(migrate.ErrLinkLost, errors.New("the host does not answer in time"))

// dialFail puts the deadline in the place of the odd error that its closing of the connection caused.
func dialFail(ctx context.Context, t target, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return &migrate.OpError{Op: "connect to " + t.raw, Err: cause, Fix: "see that the host is up, its libvirt answers (virsh -c " + t.raw + " version) and no firewall swallows the connection"}
	}
	return migrate.Fail("connect to "+t.raw, "", err, "")
}

// URI is what the user wrote, without a password.
func (h *Host) URI() string { return h.t.raw }

// Close ends the connection and waits for everything that ran on it. It is idempotent. A migration that libvirt was
// told to drive itself goes on; one that the caller drives is treated by libvirt as the package comment says.
func (h *Host) Close() error {
	h.c.close()
	h.monitors.close()
	return nil
}

// Lost is closed when the connection is lost or closed.
func (h *Host) Lost() <-chan struct{} { return h.c.w.dead }

// Facts tells of the host. What the daemon does not tell is left zero; only a lost connection is an error.
func (h *Host) Facts(ctx context.Context) (migrate.HostFacts, error) {
	f := migrate.HostFacts{Driver: "libvirt", KnowsUUIDs: true, Local: h.t.local(), Encrypted: h.t.encrypted()}
	caps, err := h.caps(ctx)
	if err != nil {
		return f, lookFail("read the capabilities of %s", []any{h.t.raw}, err)
	}
	f.HostUUID = caps.Host.UUID
	if caps.Host.CPU != nil {
		f.Arch = caps.Host.CPU.Arch
	}
	if f.Hostname, err = look(ctx, h.c, (*libvirt.Libvirt).ConnectGetHostname); err != nil {
		return f, lookFail("ask %s for its name", []any{h.t.raw}, err)
	}
	if v, err := look(ctx, h.c, (*libvirt.Libvirt).ConnectGetLibVersion); err == nil {
		f.LibVer = version(v)
	}
	if v, err := look(ctx, h.c, (*libvirt.Libvirt).ConnectGetVersion); err == nil {
		f.QEMUVer = version(v)
	}
	if n, err := h.NodeFreeMemory(ctx); err == nil {
		f.FreeBytes = &n
	}
	return f, ctx.Err()
}

// version splits libvirt's packed number.
func version(v uint64) migrate.Version {
	return migrate.Version{Major: int(v / 1e6), Minor: int(v / 1e3 % 1e3), Micro: int(v % 1e3)}
}

func (h *Host) readCaps(ctx context.Context) (*libvirtxml.Caps, error) {
	s, err := look(ctx, h.c, (*libvirt.Libvirt).ConnectGetCapabilities)
	if err != nil {
		return nil, err
	}
	var c libvirtxml.Caps
	return &c, c.Unmarshal(s)
}

// onceOK remembers the first success of f. Several callers may ask at once.
func onceOK[T any](f func(context.Context) (T, error)) func(context.Context) (T, error) {
	lock := make(chan struct{}, 1)
	var done bool
	var v T
	return func(ctx context.Context) (T, error) {
		select {
		case lock <- struct{}{}:
			defer func() { <-lock }()
		case <-ctx.Done():
			var zero T
			return zero, context.Cause(ctx)
		}
		if done {
			return v, nil
		}
		got, err := f(ctx)
		if err == nil {
			v, done = got, true
		}
		return got, err
	}
}

// lookup finds a domain by name, or by UUID if name looks like one and no domain has it for a name.
func (h *Host) lookup(ctx context.Context, name string) (libvirt.Domain, error) {
	d, err := look(ctx, h.c, func(l *libvirt.Libvirt) (libvirt.Domain, error) { return l.DomainLookupByName(name) })
	if err == nil || !errors.Is(err, migrate.ErrNoDomain) {
		return d, lookFail("find the domain %q on %s", []any{name, h.t.raw}, err)
	}
	if id, ok := parseUUID(name); ok {
		if d, err := look(ctx, h.c, func(l *libvirt.Libvirt) (libvirt.Domain, error) { return l.DomainLookupByUUID(id) }); err == nil {
			return d, nil
		}
	}
	return d, migrate.Fail("find the domain \""+name+"\" on "+h.t.raw, "", err, "list its domains with virsh -c "+h.t.raw+" list --all")
}
