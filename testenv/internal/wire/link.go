package wire

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// Counters are what passed a host's migration link since the lab came up.
type Counters struct {
	SentBytes       uint64 `json:"sent_bytes"`
	SentFrames      uint64 `json:"sent_frames"`
	ReceivedBytes   uint64 `json:"received_bytes"`
	ReceivedFrames  uint64 `json:"received_frames"`
	SentDropped     uint64 `json:"sent_dropped"`
	ReceivedDropped uint64 `json:"received_dropped"`
}

// Shape gives the host's link another rate, delay and loss. A connection over it
// goes on; a frame that is under way in a forwarder may be lost.
func (w *Wire) Shape(host string, spec link.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	return w.with(host, func(c *cable) error {
		if err := bucket(w.nl, c.host.WireMigration(), spec); err != nil {
			return err
		}
		if err := bucket(c.nl, layout.MigrationDevice, spec); err != nil {
			return err
		}
		return w.proxy(c, spec)
	})
}

// bucket sets or removes the token bucket of what leaves the device.
func bucket(nl *netlink.Handle, device string, spec link.Spec) error {
	d, err := nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	attrs := netlink.QdiscAttrs{LinkIndex: d.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	b, limited := spec.Bucket()
	if !limited {
		return removeBucket(nl, d)
	}
	tbf := &netlink.Tbf{
		QdiscAttrs: attrs,
		Rate:       b.BytesPerSecond,
		Buffer:     netlink.Xmittime(b.BytesPerSecond, b.Burst),
		Limit:      b.Queue,
	}
	if err := nl.QdiscReplace(tbf); err != nil {
		return fmt.Errorf("limit %s to %s: %w", device, link.FormatRate(spec.Rate), err)
	}
	return nil
}

// removeBucket takes the limit off the device, if it has one.
func removeBucket(nl *netlink.Handle, d netlink.Link) error {
	list, err := nl.QdiscList(d)
	if err != nil {
		return fmt.Errorf("list queues of %s: %w", d.Attrs().Name, err)
	}
	for _, q := range list {
		if q.Type() == "tbf" {
			if err := nl.QdiscDel(q); err != nil {
				return fmt.Errorf("remove the limit of %s: %w", d.Attrs().Name, err)
			}
		}
	}
	return nil
}

// Cut pulls the host's migration cable; Mend puts it back. Both are idempotent.
func (w *Wire) Cut(host string) error {
	return w.setCable(host, "cut", (*netlink.Handle).LinkSetDown)
}

// Mend undoes Cut.
func (w *Wire) Mend(host string) error {
	return w.setCable(host, "mend", (*netlink.Handle).LinkSetUp)
}

func (w *Wire) setCable(host, what string, set func(*netlink.Handle, netlink.Link) error) error {
	return w.with(host, func(c *cable) error {
		d, err := w.nl.LinkByName(c.host.WireMigration())
		if err == nil {
			err = set(w.nl, d)
		}
		if err != nil {
			return fmt.Errorf("%s the link of %s: %w", what, host, err)
		}
		return nil
	})
}

// Counters reads the counters of the host's migration device.
func (w *Wire) Counters(host string) (Counters, error) {
	var n Counters
	err := w.with(host, func(c *cable) error {
		d, err := c.nl.LinkByName(layout.MigrationDevice)
		if err != nil {
			return fmt.Errorf("read the counters of %s: %w", host, err)
		}
		s := d.Attrs().Statistics
		if s == nil {
			return fmt.Errorf("read the counters of %s: the kernel gives none", host)
		}
		n = Counters{
			SentBytes: s.TxBytes, SentFrames: s.TxPackets, SentDropped: s.TxDropped,
			ReceivedBytes: s.RxBytes, ReceivedFrames: s.RxPackets, ReceivedDropped: s.RxDropped,
		}
		return nil
	})
	return n, err
}

// with runs fn on the host's cable, one caller at a time.
func (w *Wire) with(host string, fn func(*cable) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cables == nil {
		return errClosed
	}
	c, ok := w.cables[host]
	if !ok {
		return fmt.Errorf("host %q is not connected", host)
	}
	return fn(c)
}
