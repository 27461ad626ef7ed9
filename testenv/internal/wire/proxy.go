package wire

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/netns"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// forwarder is a cable with delay and loss: the wire's end of it is no bridge port
// any more, but read and written by this process, and a tap takes its place. Both
// pass frames with the kernel's offload header, so that large ones stay whole.
type forwarder struct {
	*link.Forwarder
	socket, tap *os.File
}

// Close stops forwarding and closes both devices; the tap vanishes with that.
func (f *forwarder) Close() error {
	return errors.Join(f.Forwarder.Close(), f.socket.Close(), f.tap.Close())
}

// packetBuffer is how many bytes of frames wait to be read from a cable.
const packetBuffer = 16 << 20

// wholeSegments is the kernel's usual bound on segments in one offload frame.
const wholeSegments = 65535

// proxy puts a forwarder into the cable, changes it, or takes it out.
func (w *Wire) proxy(c *cable, spec link.Spec) error {
	if err := segments(c.nl, spec); err != nil {
		return err
	}
	switch {
	case !spec.Proxied():
		return w.unproxy(c)
	case c.fwd != nil:
		return c.fwd.Set(spec)
	}
	fwd, err := w.newForwarder(c.host, spec)
	if err != nil {
		return fmt.Errorf("delay the link of %s: %w", c.host.Name, err)
	}
	c.fwd = fwd
	return nil
}

// segments makes a host with a lossy link send frames of ordinary size: one loss
// would otherwise take dozens of them.
func segments(nl *netlink.Handle, spec link.Spec) error {
	d, err := nl.LinkByName(layout.MigrationDevice)
	if err != nil {
		return fmt.Errorf("find device %s: %w", layout.MigrationDevice, err)
	}
	most := wholeSegments
	if spec.Loss > 0 {
		most = 1
	}
	if err := nl.LinkSetGSOMaxSegs(d, most); err != nil {
		return fmt.Errorf("bound the frames of %s: %w", layout.MigrationDevice, err)
	}
	return nil
}

// newForwarder takes the cable off the bridge and puts itself in between.
func (w *Wire) newForwarder(host layout.Host, spec link.Spec) (*forwarder, error) {
	near, err := w.nl.LinkByName(host.WireMigration())
	if err != nil {
		return nil, err
	}
	f := &forwarder{}
	err = netns.DoFile(w.ns, func() (err error) {
		if f.tap, err = openTap(host.WireTap()); err != nil {
			return err
		}
		f.socket, err = openPacket(near.Attrs().Index)
		return err
	})
	if err == nil {
		err = join(w.nl, host.WireTap(), bridgeMigration)
	}
	if err == nil {
		err = w.nl.LinkSetNoMaster(near)
	}
	if err == nil {
		f.Forwarder, err = link.Forward(f.socket, f.tap, spec)
	}
	if err != nil {
		// Files that were not opened are nil, which Close does not mind.
		return nil, errors.Join(err, ignoreInvalid(f.socket.Close()), ignoreInvalid(f.tap.Close()), join(w.nl, host.WireMigration(), bridgeMigration))
	}
	return f, nil
}

// ignoreInvalid drops the error of closing a file that was never opened.
func ignoreInvalid(err error) error {
	if errors.Is(err, os.ErrInvalid) {
		return nil
	}
	return err
}

// unproxy takes the forwarder out of the cable and puts the cable on the bridge.
func (w *Wire) unproxy(c *cable) error {
	if c.fwd == nil {
		return nil
	}
	err := c.fwd.Close()
	c.fwd = nil
	return errors.Join(err, w.rejoin(c.host))
}

// rejoin puts the wire's end of a cable on the bridge. A cable that is cut stays so.
func (w *Wire) rejoin(host layout.Host) error {
	near, err := w.nl.LinkByName(host.WireMigration())
	if err != nil {
		return fmt.Errorf("find device %s: %w", host.WireMigration(), err)
	}
	bridge, err := w.nl.LinkByName(bridgeMigration)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridgeMigration, err)
	}
	if err := w.nl.LinkSetMasterByIndex(near, bridge.Attrs().Index); err != nil {
		return fmt.Errorf("join %s to %s: %w", host.WireMigration(), bridgeMigration, err)
	}
	return nil
}

// openTap makes a tap in the calling thread's namespace that takes offload frames.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|unix.TUN_F_TSO_ECN)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openPacket opens the device with that index, in the calling thread's namespace,
// for all frames that come in over it.
func openPacket(index int) (*os.File, error) {
	// No protocol yet: nothing is to be received before the socket is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, packetBuffer},
	} {
		if err == nil {
			err = unix.SetsockoptInt(fd, o.level, o.name, o.value)
		}
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }
