package wire

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/netns"
)

// Names inside the wire namespace.
const (
	bridgeMigration = "br-migration"
	bridgeGuest     = "br-guest"
	clientPort      = "client"
)

// Wire is the networks of one lab.
type Wire struct {
	log *slog.Logger
	ns  *os.File
	nl  *netlink.Handle

	mu     sync.Mutex
	cables map[string]*cable // by host; nil once closed
}

// cable is what is attached to one host.
type cable struct {
	host layout.Host
	nl   *netlink.Handle // in the host's namespace
	fwd  *forwarder      // nil unless the link has delay or loss
}

// New makes the wire namespace with its two bridges.
func New(log *slog.Logger) (*Wire, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	nl, err := handle(ns)
	if err != nil {
		ns.Close()
		return nil, err
	}
	// Nobody speaks IPv6 here, and nothing but the hosts' frames is to be counted.
	if err := disableIPv6(ns); err != nil {
		log.Warn("the wire speaks IPv6", "err", err)
	}
	w := &Wire{log: log, ns: ns, nl: nl, cables: map[string]*cable{}}
	for _, name := range []string{bridgeMigration, bridgeGuest} {
		if err := addBridge(nl, name); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, nil
}

// disableIPv6 turns IPv6 off for all devices that the namespace will have.
func disableIPv6(ns *os.File) error {
	return netns.DoFile(ns, func() error {
		const path = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
		err := os.WriteFile(path, []byte("1"), 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil // a kernel without
		}
		return err
	})
}

// Close stops the forwarders and lets go of the namespaces. It is idempotent.
func (w *Wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cables == nil {
		return nil
	}
	var errs []error
	for _, c := range w.cables {
		if c.fwd != nil {
			errs = append(errs, c.fwd.Close())
		}
		c.nl.Close()
	}
	w.cables = nil
	w.nl.Close()
	errs = append(errs, w.ns.Close())
	return errors.Join(errs...)
}

// AttachClient gives the namespace at path the client's device and address on the
// guest network.
func (w *Wire) AttachClient(path string) error {
	return w.inNamespace(path, func(ns *os.File, nl *netlink.Handle) error {
		defer nl.Close()
		if err := w.addCable(ns, bridgeGuest, clientPort, layout.ClientDevice); err != nil {
			return err
		}
		return errors.Join(up(nl, "lo"), address(nl, layout.ClientDevice, layout.ClientAddress.String()))
	})
}

// AttachHost connects the host whose network namespace is at path to both
// networks and gives it its address and its bridge for guests.
func (w *Wire) AttachHost(host layout.Host, path string) error {
	return w.inNamespace(path, func(ns *os.File, nl *netlink.Handle) error {
		if err := w.attachHost(host, ns, nl); err != nil {
			nl.Close()
			return fmt.Errorf("connect host %s: %w", host.Name, err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.cables == nil {
			nl.Close()
			return errClosed
		}
		w.cables[host.Name] = &cable{host: host, nl: nl}
		return nil
	})
}

var errClosed = errors.New("the lab's network is closed")

func (w *Wire) attachHost(host layout.Host, ns *os.File, nl *netlink.Handle) error {
	if err := up(nl, "lo"); err != nil {
		return err
	}
	if err := w.addCable(ns, bridgeMigration, host.WireMigration(), layout.MigrationDevice); err != nil {
		return err
	}
	if err := address(nl, layout.MigrationDevice, host.Address.String()); err != nil {
		return err
	}
	if err := addBridge(nl, layout.GuestBridge); err != nil {
		return err
	}
	if err := w.addCable(ns, bridgeGuest, host.WireGuest(), layout.GuestUplink); err != nil {
		return err
	}
	if err := join(nl, layout.GuestUplink, layout.GuestBridge); err != nil {
		return err
	}
	return makeRoomForBlocks(nl)
}

// Detach takes the host off both networks for good, as a power failure does: nothing
// that its kernel still sends when its processes end reaches anyone.
func (w *Wire) Detach(host string) error {
	return w.with(host, func(c *cable) error {
		var errs []error
		for _, name := range []string{c.host.WireMigration(), c.host.WireGuest()} {
			d, err := w.nl.LinkByName(name)
			if err == nil {
				err = w.nl.LinkDel(d)
			}
			errs = append(errs, err)
		}
		if c.fwd != nil {
			errs = append(errs, c.fwd.Close())
		}
		c.nl.Close()
		delete(w.cables, host)
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("disconnect host %s: %w", host, err)
		}
		return nil
	})
}

// inNamespace opens the namespace at path and a netlink socket in it.
func (w *Wire) inNamespace(path string, fn func(*os.File, *netlink.Handle) error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	nl, err := handle(ns)
	if err != nil {
		return err
	}
	return fn(ns, nl)
}

// handle opens a netlink socket in the namespace. netlink's own way looks the
// thread up in /proc by number, which fails where /proc counts differently.
func handle(ns *os.File) (nl *netlink.Handle, err error) {
	err = netns.DoFile(ns, func() (err error) {
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", ns.Name(), err)
	}
	return nl, nil
}

// addCable makes a veth pair: near is a port of bridge in the wire namespace, far
// is in the namespace ns.
func (w *Wire) addCable(ns *os.File, bridge, near, far string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = near
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsFd(ns.Fd())}
	if err := w.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("make cable %s to %s: %w", near, far, err)
	}
	return join(w.nl, near, bridge)
}

// addBridge makes a bridge that forwards at once (no spanning tree) and floods
// multicast as a plain switch does.
func addBridge(nl *netlink.Handle, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snooping := false
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	return up(nl, name)
}

// join makes the device a port of the bridge and brings it up.
func join(nl *netlink.Handle, device, bridge string) error {
	d, err := nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	b, err := nl.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	if err := nl.LinkSetMasterByIndex(d, b.Attrs().Index); err != nil {
		return fmt.Errorf("join %s to %s: %w", device, bridge, err)
	}
	return up(nl, device)
}

func up(nl *netlink.Handle, device string) error {
	d, err := nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	if err := nl.LinkSetUp(d); err != nil {
		return fmt.Errorf("bring up %s: %w", device, err)
	}
	return nil
}

// address gives the device an address in CIDR form and brings it up.
func address(nl *netlink.Handle, device, cidr string) error {
	d, err := nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("address %s: %w", cidr, err)
	}
	if err := nl.AddrAdd(d, a); err != nil {
		return fmt.Errorf("give %s the address %s: %w", device, cidr, err)
	}
	return up(nl, device)
}
