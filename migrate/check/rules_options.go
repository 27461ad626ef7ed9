package check

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// ruleOptions: what the user asked for makes sense together.
func ruleOptions(f Facts) []Finding {
	var out []Finding
	for _, r := range []rule{optThrottle, optDirtyLimit, optCompression, optDisks, optUndefine, optPeer, optBandwidth,
		optTime, optPostcopy, optTLS, optParallel, optURIs, optAgents} {
		out = append(out, r(f)...)
	}
	return out
}

// usage is a finding about the options.
func usage(id string, sev Severity, title, detail, fix string) []Finding {
	return one(id, sev, migrate.SideCoordinator, title, detail, fix)
}

func optThrottle(f Facts) []Finding {
	p := f.Params
	switch {
	case p.AutoConverge && p.DirtyLimit:
		return usage(IDOptionThrottle, Blocker, "--auto-converge and --dirty-limit exclude each other", "",
			"leave out --dirty-limit")
	case !p.AutoConverge && (p.AutoConvergeInitial != 0 || p.AutoConvergeIncrement != 0):
		return usage(IDOptionThrottle, Blocker, "auto-converge's figures need --auto-converge", "", "add --auto-converge")
	case p.AutoConvergeInitial < 0 || p.AutoConvergeInitial > 99 || p.AutoConvergeIncrement < 0 || p.AutoConvergeIncrement > 99:
		return usage(IDOptionThrottle, Blocker, "auto-converge's figures are percentages from 1 to 99",
			fmt.Sprintf("initial %d, increment %d", p.AutoConvergeInitial, p.AutoConvergeIncrement), "correct them")
	}
	return nil
}

func optDirtyLimit(f Facts) []Finding {
	if !f.Params.DirtyLimit {
		return nil
	}
	if src := f.Source.Facts; src.OK && src.Value.Driver == "libvirt" {
		return usage(IDOptionDirtyLimit, Blocker, "libvirt cannot set --dirty-limit", "", "use --auto-converge")
	}
	if thereAccel(f) == "tcg" {
		return usage(IDOptionDirtyLimit, Blocker, "--dirty-limit needs KVM", "the guest runs under TCG", "use --auto-converge")
	}
	return nil
}

func optCompression(f Facts) []Finding {
	p := f.Params
	var stream []string // methods of multifd
	for _, m := range p.Compression {
		switch m {
		case "zlib", "zstd":
			stream = append(stream, m)
		case "xbzrle":
		case "mt":
			return usage(IDOptionCompression, Blocker, "QEMU no longer has compression method mt", "removed in QEMU 9.1",
				"use --comp-methods zstd with --parallel")
		default:
			return usage(IDOptionCompression, Blocker, fmt.Sprintf("compression method %q is unknown", m), "", "use xbzrle, zlib or zstd")
		}
	}
	xbzrle := slices.Contains(p.Compression, "xbzrle")
	switch {
	case len(stream) > 1:
		return usage(IDOptionCompression, Blocker, "only one of zlib and zstd can be used", "", "leave one out")
	case len(stream) == 1 && p.Parallel == 0:
		return usage(IDOptionCompression, Blocker, stream[0]+" works on parallel channels only", "", "add --parallel-connections 4")
	case xbzrle && p.Parallel > 0:
		return usage(IDOptionCompression, Blocker, "xbzrle and parallel channels exclude each other", "", "leave out xbzrle")
	}
	return nil
}

func optDisks(f Facts) []Finding {
	p := f.Params
	if !slices.Contains([]migrate.CopyStorage{migrate.CopyNone, migrate.CopyAll, migrate.CopyInc, migrate.CopyAfter}, p.CopyStorage) {
		return usage(IDOptionDisks, Blocker, fmt.Sprintf("%q is no way of copying disks", p.CopyStorage), "", "use --copy-storage-all")
	}
	if p.CopyStorage == migrate.CopyNone &&
		(len(p.MigrateDisks) > 0 || p.SynchronousWrites || p.DisksURI != "" || p.DisksPort != 0) {
		return usage(IDOptionDisks, Blocker, "an option about copied disks, but no disk is to be copied", "", "add --copy-storage-all")
	}
	if p.DisksPort < 0 || p.DisksPort > 65535 {
		return usage(IDOptionDisks, Blocker, fmt.Sprintf("%d is no port", p.DisksPort), "", "correct --disks-port")
	}
	if strings.HasPrefix(p.MigrateURI, "unix:") && p.CopyStorage != migrate.CopyNone && p.DisksURI == "" {
		return usage(IDOptionDisks, Blocker, "with a unix migrate URI the disks need one of their own", "", "add --disks-uri unix:///PATH")
	}
	return nil
}

func optUndefine(f Facts) []Finding {
	g := guestOf(f)
	if !f.Params.UndefineSource || f.Params.Persistent || g == nil || !g.Persistent {
		return nil
	}
	return usage(IDOptionUndefine, Warning, "afterwards the domain is defined nowhere",
		"--undefinesource removes the definition here, and without --persistent there will be none at the destination",
		"add --persistent")
}

func optPeer(f Facts) []Finding {
	if f.Params.PeerURI == "" || f.Params.PeerToPeer {
		return nil
	}
	return usage(IDOptionPeer, Blocker, "a URI for the source's daemon, but no peer-to-peer", f.Params.PeerURI, "add --p2p")
}

func optBandwidth(f Facts) []Finding {
	for _, b := range []int64{f.Params.Bandwidth, f.Params.BandwidthPostcopy, f.Params.BandwidthDisk} {
		switch {
		case b < 0:
			return usage(IDOptionBandwidth, Blocker, "a bandwidth is negative", fmt.Sprint(b), "leave it out for no limit")
		case b > 0 && b < 1<<20:
			return usage(IDOptionBandwidth, Warning, "a bandwidth is lower than 1 MiB/s",
				fmt.Sprintf("%s/s; libvirt counts in MiB/s", size(b)), "give its unit, such as 100MiB")
		}
	}
	return nil
}

// longestPause is the largest downtime-limit that QEMU accepts.
const longestPause = 2000 * time.Second

func optTime(f Facts) []Finding {
	p := f.Params
	switch {
	case p.MaxDowntime < 0 || p.MaxDuration < 0:
		return usage(IDOptionTime, Blocker, "a time is negative", "", "leave it out for the default")
	case p.MaxDowntime > longestPause:
		return usage(IDOptionTime, Blocker, "QEMU accepts no longer pause than 2000 s", p.MaxDowntime.String(), "lower --max-downtime")
	}
	return nil
}

func optPostcopy(f Facts) []Finding {
	p := f.Params
	if p.Strategy != migrate.StrategyPrecopy || !p.Preempt && p.BandwidthPostcopy == 0 {
		return nil
	}
	return usage(IDOptionPostcopy, Warning, "an option about post-copy has no effect on pre-copy", "", "leave it out, or use --strategy hybrid")
}

func optTLS(f Facts) []Finding {
	if f.Params.TLSDestination == "" || f.Params.TLS {
		return nil
	}
	return usage(IDOptionTLS, Blocker, "--tls-destination without --tls", "nothing would be encrypted", "add --tls")
}

func optParallel(f Facts) []Finding {
	if n := f.Params.Parallel; n < 0 || n > 255 {
		return usage(IDOptionParallel, Blocker, fmt.Sprintf("%d is no number of parallel channels", n), "QEMU takes 1 to 255", "use 4")
	}
	return nil
}

// optAgents: what concerns agents means nothing to an engine without.
func optAgents(f Facts) []Finding {
	p := f.Params
	if byNBD(f) || p.Prepage == "" && p.Tracker == "" && !p.PlainData && !p.KeepCopy && p.ReuseRAM == "" {
		return nil
	}
	return usage(IDNBDOption, Warning, "an option of the nbd engine has no effect on native", "", "leave it out, or use --engine nbd")
}

// optURIs: QEMU would have to make sense of these.
func optURIs(f Facts) []Finding {
	for _, u := range []struct{ flag, uri string }{{"--migrateuri", f.Params.MigrateURI}, {"--disks-uri", f.Params.DisksURI}} {
		if u.uri == "" {
			continue
		}
		if _, err := parseEndpoint(u.uri); err != nil {
			return usage(IDOptionURI, Blocker, fmt.Sprintf("%s cannot be read", u.flag), err.Error(), "write tcp://HOST[:PORT] or unix:///PATH")
		}
	}
	return nil
}

// endpoint is where RAM or disks go.
type endpoint struct {
	scheme     string // tcp, unix, rdma, other
	host, port string // tcp and rdma; either may be empty
}

// parseEndpoint reads tcp://host:port, libvirt's older tcp:host:port, unix:///path and rdma://host:port.
func parseEndpoint(raw string) (endpoint, error) {
	scheme, rest, ok := strings.Cut(raw, ":")
	if !ok || rest == "" {
		return endpoint{}, fmt.Errorf("%q has no scheme", raw)
	}
	switch scheme {
	case "unix":
		return endpoint{scheme: scheme}, nil
	case "tcp", "rdma":
	default:
		return endpoint{}, fmt.Errorf("%q is neither tcp, unix nor rdma", raw)
	}
	if !strings.HasPrefix(rest, "//") {
		raw = scheme + "://" + rest
	}
	u, err := url.Parse(raw)
	if err != nil {
		return endpoint{}, err
	}
	return endpoint{scheme: scheme, host: u.Hostname(), port: u.Port()}, nil
}
