package check

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// reach looks at the destination from where the source stands.
func (g *gatherer) reach(ctx context.Context, src, dst HostSide) Reach {
	from, r := Vantage(g.srcView), Reach{}
	if g.srcView == nil {
		from, r.Here = Here(), true
		r.From = from.String()
	} else {
		r.From = "the source (" + from.String() + ")"
	}
	r.Name = g.destinationHost(dst)
	if r.Name != "" {
		r.Addresses = ask(ctx, g, func(ctx context.Context) ([]string, error) { return from.Resolve(ctx, r.Name) })
	}
	r.SameNetwork = g.sameNetwork(ctx)
	listeners := CouldNotTell[map[int]bool]("there is no way to look at the destination" + because(g.dstErr))
	if g.dstView != nil {
		listeners = ask(ctx, g, g.dstView.Listeners)
	}
	for _, w := range g.wanted(dst) {
		addrs := r.Addresses
		if w.host != r.Name {
			addrs = ask(ctx, g, func(ctx context.Context) ([]string, error) { return from.Resolve(ctx, w.host) })
		}
		if allLoopback(addrs.Value) && !r.SameNetwork.Value {
			continue // it would be the source itself that is dialled; ruleName says so
		}
		if addrs.OK && len(addrs.Value) > 0 {
			r.Ports = append(r.Ports, g.probe(ctx, from, w, addrs.Value, listeners)...)
		} else if w.host != r.Name {
			r.Ports = append(r.Ports, PortFacts{Purpose: w.purpose, Address: net.JoinHostPort(w.host, strconv.Itoa(w.low)),
				Daemon: w.daemon, Seen: CouldNotTell[Contact](strings.TrimSuffix("the name means nothing there: "+addrs.Why, ": "))})
		}
	}
	return r
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

// destinationHost is the name under which the source will be told to find the destination; "" if it cannot be known.
func (g *gatherer) destinationHost(dst HostSide) string {
	if g.p.MigrateURI != "" {
		e, err := parseEndpoint(g.p.MigrateURI)
		if err != nil || e.scheme == "unix" {
			return ""
		}
		if e.host != "" {
			return e.host
		}
	}
	if !dst.Facts.OK || dst.Facts.Value.Driver != driverLibvirt {
		return ""
	}
	if h := dst.Conf.Value.MigrationHost; h != "" {
		return strings.Trim(h, "[]")
	}
	return dst.Facts.Value.Hostname
}

// sameNetwork tells whether both hosts live in one network namespace.
func (g *gatherer) sameNetwork(ctx context.Context) Answer[bool] {
	if g.srcView == nil || g.dstView == nil {
		return Answer[bool]{}
	}
	a, b := ask(ctx, g, g.srcView.Identity), ask(ctx, g, g.dstView.Identity)
	if !a.OK || !b.OK {
		return CouldNotTell[bool](a.Why + b.Why)
	}
	return Known(a.Value == b.Value)
}

// want is a port, or a range of them, that the source has to reach.
type want struct {
	purpose, host string
	low, high     int
	daemon        bool
}

// wanted lists the ports that this migration will use, as far as they can be known before it starts.
func (g *gatherer) wanted(dst HostSide) []want {
	var out []want
	host := g.destinationHost(dst)
	low, high := dst.Conf.Value.ports()
	ranged := false // the range is in the list already
	if host != "" {
		w := want{purpose: "RAM", host: host, low: low, high: high}
		if e, err := parseEndpoint(g.p.MigrateURI); err == nil && e.port != "" {
			w.low, _ = strconv.Atoi(e.port)
			w.high = w.low
		}
		ranged = w.low != w.high
		out = append(out, w)
	}
	if w, ok := g.disksWant(host, low, high); ok && (w.low == w.high || !ranged) {
		out = append(out, w)
	}
	if g.p.PeerToPeer {
		uri := g.p.PeerURI
		if uri == "" {
			uri = g.dst.URI()
		}
		if h, port, ok := daemonPort(uri); ok {
			out = append(out, want{purpose: "libvirt's daemon", host: h, low: port, high: port, daemon: true})
		}
	}
	return out
}

// disksWant is where copied disks go.
func (g *gatherer) disksWant(host string, low, high int) (want, bool) {
	if g.p.CopyStorage == migrate.CopyNone {
		return want{}, false
	}
	w := want{purpose: "disks", host: host, low: low, high: high}
	if e, err := parseEndpoint(g.p.DisksURI); err == nil {
		if e.scheme != "tcp" {
			return want{}, false
		}
		if e.host != "" {
			w.host = e.host
		}
		if n, err := strconv.Atoi(e.port); err == nil {
			w.low, w.high = n, n
		}
	}
	if n := g.p.DisksPort; n > 0 {
		w.low, w.high = n, n
	}
	return w, w.host != ""
}

// daemonPort tells where the daemon of a libvirt URI listens; not ok for a local one.
func daemonPort(uri string) (host string, port int, ok bool) {
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() == "" {
		return "", 0, false
	}
	_, transport, _ := strings.Cut(u.Scheme, "+")
	switch transport {
	case "", "tls":
		port = 16514
	case "tcp":
		port = 16509
	case "ssh", "libssh", "libssh2":
		port = 22
	default:
		return "", 0, false
	}
	if n, err := strconv.Atoi(u.Port()); err == nil {
		port = n
	}
	return u.Hostname(), port, true
}

// probe dials what may be dialled for w. A port without a daemon is dialled only if nobody listens there, so that no
// QEMU which waits for another guest gets a connection that is not for it. Of a range whose listeners are not known,
// that is the last port, as libvirt takes the first free ones.
func (g *gatherer) probe(ctx context.Context, from Vantage, w want, addrs []string, listeners Answer[map[int]bool]) []PortFacts {
	var out []PortFacts
	var dials []int
	add := func(port int, fill func(*PortFacts)) {
		f := PortFacts{Purpose: w.purpose, Address: net.JoinHostPort(w.host, strconv.Itoa(port)), Daemon: w.daemon}
		if w.low != w.high {
			f.Range = fmt.Sprintf("%d-%d", w.low, w.high)
		}
		fill(&f)
		out = append(out, f)
	}
	dial := func(*PortFacts) { dials = append(dials, len(out)) }
	switch {
	case w.daemon:
		add(w.low, dial)
	case w.low == w.high && listeners.OK && listeners.Value[w.low]:
		add(w.low, func(f *PortFacts) { f.Taken = true })
	case w.low == w.high && !listeners.OK:
		add(w.low, func(f *PortFacts) {
			f.Seen = CouldNotTell[Contact]("not tried, since somebody may listen there: " + listeners.Why)
		})
	case !listeners.OK:
		add(w.high, dial)
	default:
		for _, port := range freePorts(w.low, w.high, listeners.Value) {
			add(port, dial)
		}
	}
	var wg sync.WaitGroup
	for _, i := range dials {
		wg.Go(func() { out[i].Seen = dialAny(ctx, g.o.Timeout, from, addrs, portOf(out[i].Address)) })
	}
	wg.Wait()
	return out
}

// freePorts gives the first and the last port of the range that nobody listens on.
func freePorts(low, high int, taken map[int]bool) []int {
	for low <= high && taken[low] {
		low++
	}
	for high > low && taken[high] {
		high--
	}
	switch {
	case low > high:
		return nil
	case low == high:
		return []int{low}
	}
	return []int{low, high}
}

// maxAddresses bounds how many addresses of one name are dialled.
const maxAddresses = 3

// dialAny tries the addresses of a name, as the source will, until one answers.
func dialAny(ctx context.Context, limit time.Duration, from Vantage, addrs []string, port string) Answer[Contact] {
	last := CouldNotTell[Contact]("the name has no address")
	for i, a := range addrs {
		if i == maxAddresses || ctx.Err() != nil {
			break
		}
		if ip, err := netip.ParseAddr(a); err != nil || ip.IsUnspecified() {
			last = CouldNotTell[Contact](a + " is no address")
			continue
		}
		dctx, cancel := context.WithTimeout(ctx, limit)
		last = contact(from.Dial(dctx, net.JoinHostPort(a, port)))
		cancel()
		if last.OK && last.Value != ContactBlocked {
			return last
		}
	}
	if err := ctx.Err(); err != nil {
		return CouldNotTell[Contact](err.Error())
	}
	return last
}
