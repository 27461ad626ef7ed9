package check

import (
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestRulesNetwork(t *testing.T) {
	link := func(l Link, a Answer[bool]) func(*Facts) {
		return func(f *Facts) {
			both(f, func(d *migrate.DomainFacts) {
				d.NICs = []migrate.NIC{{MAC: "m1", Kind: l.Kind, Source: l.Name}, {MAC: "m2", Kind: l.Kind, Source: l.Name}}
			})
			f.Links = map[Link]Answer[bool]{l: a}
		}
	}
	port := func(p PortFacts) func(*Facts) {
		return func(f *Facts) { f.Reach.Ports = []PortFacts{p} }
	}
	ram := func(c Answer[Contact]) PortFacts {
		return PortFacts{Purpose: "RAM", Address: "b:49152", Range: "49152-49215", Seen: c}
	}
	daemon := func(c Contact) PortFacts {
		return PortFacts{Purpose: "libvirt's daemon", Address: "b:16514", Daemon: true, Seen: Known(c)}
	}
	fromHere := func(c func(*Facts)) func(*Facts) {
		return func(f *Facts) { c(f); f.Reach.Here, f.Reach.From = true, "here" }
	}
	addrs := func(as ...string) func(*Facts) { return func(f *Facts) { f.Reach.Addresses = Known(as) } }
	runCases(t, []ruleCase{
		{"bridge missing", link(Link{"bridge", "br7"}, Known(false)), IDBridgeMissing, Blocker, dst, "br7", nil},
		{"bridge unknown", link(Link{"bridge", "br7"}, CouldNotTell[bool]("hm")), IDBridgeMissing, Unknown, dst, "hm", nil},
		{"network missing", link(Link{"network", "lan"}, Known(false)), IDNetworkMissing, Blocker, dst, "lan", nil},
		{"network there", link(Link{"network", "lan"}, Known(true)), "", "", "", "", nil},
		{"link not asked", link(Link{"user", ""}, Answer[bool]{}), "", "", "", "", nil},

		{"name unresolved", addrs(), IDNameUnresolved, Blocker, src, "cannot resolve", nil},
		{"name unresolved here", fromHere(func(f *Facts) { addrs()(f); f.Reach.Ports = nil }), IDNameUnresolved, Unknown, src, "here", nil},
		{"resolver broken", func(f *Facts) { f.Reach.Addresses = CouldNotTell[[]string]("hm") }, IDNameUnresolved, Unknown, src, "hm", nil},
		{"name unknown", func(f *Facts) { f.Reach.Name, f.Reach.Addresses = "", Answer[[]string]{} }, "", "", "", "", nil},
		{"loopback", addrs("127.0.1.1"), IDNameLoopback, Blocker, src, "127.0.1.1", nil},
		{"IPv6 loopback", addrs("::1", "127.0.0.1"), IDNameLoopback, Blocker, src, "::1", nil},
		{"loopback and more", addrs("127.0.1.1", "192.0.2.2"), "", "", "", "", nil},
		{"loopback of both", func(f *Facts) { addrs("127.0.0.1")(f); f.Reach.SameNetwork = Known(true) }, "", "", "", "", nil},
		{"loopback, unknown", func(f *Facts) { addrs("127.0.0.1")(f); f.Reach.SameNetwork = Answer[bool]{} }, IDNameLoopback, Unknown, src, "", nil},

		{"RAM port open", port(ram(Known(ContactOpen))), "", "", "", "", nil},
		{"RAM port refused", port(ram(Known(ContactRefused))), "", "", "", "", nil},
		{"RAM port blocked", port(ram(Known(ContactBlocked))), IDPortBlocked, Blocker, src, "b:49152 (RAM, ports 49152-49215)", nil},
		{"both ends of the range blocked", func(f *Facts) {
			f.Reach.Ports = []PortFacts{ram(Known(ContactBlocked)), ram(Known(ContactBlocked))}
		}, IDPortBlocked, Blocker, src, "", nil},
		{"one end of the range blocked", func(f *Facts) {
			f.Reach.Ports = []PortFacts{ram(Known(ContactRefused)), ram(Known(ContactBlocked))}
		}, IDPortBlocked, Blocker, src, "", nil},
		{"RAM port blocked from here", fromHere(port(ram(Known(ContactBlocked)))), IDPortBlocked, Unknown, src, "blocked", nil},
		{"RAM port refused from here", fromHere(port(ram(Known(ContactRefused)))), IDPortBlocked, Unknown, src, "refused", nil},
		{"RAM port unknown", port(ram(CouldNotTell[Contact]("hm"))), IDPortBlocked, Unknown, src, "hm", nil},
		{"RAM port taken", port(PortFacts{Purpose: "RAM", Address: "b:5000", Taken: true}), IDPortBusy, Blocker, dst, "b:5000", nil},
		{"daemon open", port(daemon(ContactOpen)), "", "", "", "", nil},
		{"daemon refused", port(daemon(ContactRefused)), IDPortClosed, Blocker, dst, "16514", nil},
		{"daemon blocked", port(daemon(ContactBlocked)), IDPortBlocked, Blocker, src, "16514", nil},

		{"in clear", func(f *Facts) { f.Params.TLS = false }, IDInClear, Info, src, "", nil},
		{"in clear on one machine", func(f *Facts) { f.Params.TLS = false; f.Reach.SameNetwork = Known(true) }, "", "", "", "", nil},
		{"in clear over a unix socket", func(f *Facts) {
			f.Params.TLS = false
			f.Params.MigrateURI = "unix:///r"
			f.Params.DisksURI = "unix:///d"
		}, "", "", "", "", nil},
	})
}

func TestRulesOptions(t *testing.T) {
	with := func(change func(*migrate.Params)) func(*Facts) {
		return func(f *Facts) {
			f.Params.Strategy = migrate.StrategyPrecopy
			change(&f.Params)
		}
	}
	type P = migrate.Params
	runCases(t, []ruleCase{
		{"throttle twice", func(f *Facts) {
			with(func(p *P) { p.AutoConverge, p.DirtyLimit = true, true })(f)
		}, IDOptionThrottle, Blocker, own, "", []string{IDOptionDirtyLimit}},
		{"auto-converge", with(func(p *P) { p.AutoConverge, p.AutoConvergeInitial, p.AutoConvergeIncrement = true, 20, 99 }), "", "", "", "", nil},
		{"auto-converge figures alone", with(func(p *P) { p.AutoConvergeInitial = 20 }), IDOptionThrottle, Blocker, own, "", nil},
		{"auto-converge too much", with(func(p *P) { p.AutoConverge, p.AutoConvergeIncrement = true, 100 }), IDOptionThrottle, Blocker, own, "100", nil},
		{"dirty-limit with libvirt", with(func(p *P) { p.DirtyLimit = true }), IDOptionDirtyLimit, Blocker, own, "libvirt", nil},
		{"dirty-limit under TCG", func(f *Facts) {
			with(func(p *P) { p.DirtyLimit = true })(f)
			f.Source.Facts.Value.Driver, f.Dest.Facts.Value.Driver = "qemu", "qemu"
			both(f, func(d *migrate.DomainFacts) { d.Accel, d.VCPUs = "tcg", 1 })
		}, IDOptionDirtyLimit, Blocker, own, "KVM", nil},
		{"dirty-limit under KVM", func(f *Facts) {
			with(func(p *P) { p.DirtyLimit = true })(f)
			f.Source.Facts.Value.Driver, f.Dest.Facts.Value.Driver = "qemu", "qemu"
		}, "", "", "", "", nil},
		{"zstd alone", with(func(p *P) { p.Compression = []string{"zstd"} }), IDOptionCompression, Blocker, own, "parallel", nil},
		{"zstd parallel", with(func(p *P) { p.Compression, p.Parallel = []string{"zstd"}, 2 }), "", "", "", "", nil},
		{"zstd and zlib", with(func(p *P) { p.Compression, p.Parallel = []string{"zstd", "zlib"}, 2 }), IDOptionCompression, Blocker, own, "one of", nil},
		{"xbzrle", with(func(p *P) { p.Compression = []string{"xbzrle"} }), "", "", "", "", nil},
		{"xbzrle parallel", with(func(p *P) { p.Compression, p.Parallel = []string{"xbzrle"}, 2 }), IDOptionCompression, Blocker, own, "exclude", nil},
		{"mt", with(func(p *P) { p.Compression = []string{"mt"} }), IDOptionCompression, Blocker, own, "mt", nil},
		{"unknown method", with(func(p *P) { p.Compression = []string{"lz4"} }), IDOptionCompression, Blocker, own, "lz4", nil},
		{"disks without copying", func(f *Facts) { kept(with(func(p *P) { p.SynchronousWrites = true }))(f) }, IDOptionDisks, Blocker, own, "", nil},
		{"unknown way of copying", with(func(p *P) { p.CopyStorage = "some" }), IDOptionDisks, Blocker, own, "some", nil},
		{"disks port", with(func(p *P) { p.DisksPort = 70000 }), IDOptionDisks, Blocker, own, "70000", nil},
		{"unix without disks URI", with(func(p *P) { p.MigrateURI = "unix:///r" }), IDOptionDisks, Blocker, own, "", nil},
		{"undefine", with(func(p *P) { p.UndefineSource = true }), IDOptionUndefine, Warning, own, "", nil},
		{"undefine and persist", with(func(p *P) { p.UndefineSource, p.Persistent = true, true }), "", "", "", "", nil},
		{"undefine a transient one", func(f *Facts) {
			with(func(p *P) { p.UndefineSource = true })(f)
			both(f, func(d *migrate.DomainFacts) { d.Persistent = false })
		}, "", "", "", "", nil},
		{"peer URI alone", with(func(p *P) { p.PeerURI = "qemu+tls://b/system" }), IDOptionPeer, Blocker, own, "", nil},
		{"peer URI", with(func(p *P) { p.PeerURI, p.PeerToPeer = "qemu+tls://b/system", true }), "", "", "", "", nil},
		{"negative bandwidth", with(func(p *P) { p.BandwidthPostcopy = -1 }), IDOptionBandwidth, Blocker, own, "", []string{IDOptionPostcopy}},
		{"tiny bandwidth", with(func(p *P) { p.Bandwidth = 100 }), IDOptionBandwidth, Warning, own, "100 B/s", nil},
		{"bandwidth", with(func(p *P) { p.Bandwidth = 1 << 20 }), "", "", "", "", nil},
		{"negative time", with(func(p *P) { p.MaxDuration = -1 }), IDOptionTime, Blocker, own, "", nil},
		{"long pause", with(func(p *P) { p.MaxDowntime = longestPause + 1 }), IDOptionTime, Blocker, own, "", nil},
		{"longest pause", with(func(p *P) { p.MaxDowntime = longestPause }), "", "", "", "", nil},
		{"preempt in pre-copy", with(func(p *P) { p.Preempt = true }), IDOptionPostcopy, Warning, own, "", nil},
		{"preempt in hybrid", with(func(p *P) { p.Preempt, p.Strategy = true, migrate.StrategyHybrid }), "", "", "", "", nil},
		{"TLS name without TLS", with(func(p *P) { p.TLS, p.TLSDestination = false, "b" }), IDOptionTLS, Blocker, own, "", []string{IDInClear}},
		{"too parallel", with(func(p *P) { p.Parallel = 256 }), IDOptionParallel, Blocker, own, "256", nil},
		{"odd migrate URI", with(func(p *P) { p.MigrateURI = "exec:cat" }), IDOptionURI, Blocker, own, "exec:cat", nil},
		{"odd disks URI", with(func(p *P) { p.DisksURI = "nbd" }), IDOptionURI, Blocker, own, "nbd", nil},
	})
}

func TestParseEndpoint(t *testing.T) {
	for raw, want := range map[string]endpoint{
		"tcp://b":            {"tcp", "b", ""},
		"tcp://b:49152":      {"tcp", "b", "49152"},
		"tcp:b:5000":         {"tcp", "b", "5000"},
		"tcp://[2001::1]:80": {"tcp", "2001::1", "80"},
		"unix:///run/x":      {"unix", "", ""},
		"rdma://b:1":         {"rdma", "b", "1"},
	} {
		if got, err := parseEndpoint(raw); err != nil || got != want {
			t.Errorf("%s: %+v, %v", raw, got, err)
		}
	}
	for _, raw := range []string{"", "tcp", "tcp:", "exec:x", "tcp://b:port", "tcp://[::1"} {
		if got, err := parseEndpoint(raw); err == nil {
			t.Errorf("%q: %+v, want an error", raw, got)
		}
	}
}
