package qemuhost

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// defaultDowntime is the pause that is accepted when the user names none.
const defaultDowntime = 300 * time.Millisecond

// settings are capabilities and parameters of one QEMU's migration, by QEMU's names. Parameters are kept as QEMU writes
// them, so that what is restored is exactly what was found.
type settings struct {
	Caps   qmp.Capabilities           `json:"caps,omitempty"`
	Params map[string]json.RawMessage `json:"params,omitempty"`
}

// newSettings has no capability or parameter.
func newSettings() settings {
	return settings{Caps: qmp.Capabilities{}, Params: map[string]json.RawMessage{}}
}

// set notes a parameter; v is a number or a string, which JSON always takes.
func (s settings) set(name string, v any) {
	b, err := json.Marshal(v)
	if err == nil {
		s.Params[name] = b
	}
}

// transport is what both ends have to set alike.
func transport(p migrate.Params, ack, tls bool) settings {
	s := newSettings()
	s.Caps[qmp.CapEvents], s.Caps[qmp.CapReturnPath] = true, true
	s.Caps[qmp.CapSwitchoverAck] = ack
	s.Caps[qmp.CapPostcopyRAM], s.Caps[qmp.CapPostcopyPreempt] = p.Strategy.Postcopy(), p.Strategy.Postcopy() && p.Preempt
	s.Caps[qmp.CapMultifd] = p.Parallel > 0
	s.Caps[qmp.CapXBZRLE] = slices.Contains(p.Compression, "xbzrle")
	// Off is said too: a QEMU that leaves RAM out of its stream though nobody else moves it would arrive empty.
	s.Caps[qmp.CapIgnoreShared] = p.SharedRAM
	if p.Parallel > 0 {
		s.set("multifd-channels", p.Parallel)
		s.set("multifd-compression", multifdCompression(p))
	}
	s.set("tls-creds", "")
	s.set("tls-hostname", "")
	if tls {
		s.set("tls-creds", tlsObject)
	}
	return s
}

// sourceSettings are those of the sending end. QEMU's own cap of 128 MiB/s is lifted where the user asks for none.
func sourceSettings(p migrate.Params, ack, tls bool, tlsHost string) settings {
	s := transport(p, ack, tls)
	s.Caps[qmp.CapPauseBeforeSwitchover] = true
	s.Caps[qmp.CapAutoConverge], s.Caps[qmp.CapDirtyLimit] = p.AutoConverge, p.DirtyLimit
	s.set("max-bandwidth", bandwidth(p.Bandwidth))
	s.set("max-postcopy-bandwidth", p.BandwidthPostcopy)
	s.set("downtime-limit", downtimeMS(p.MaxDowntime))
	if p.AutoConvergeInitial > 0 {
		s.set("cpu-throttle-initial", p.AutoConvergeInitial)
	}
	if p.AutoConvergeIncrement > 0 {
		s.set("cpu-throttle-increment", p.AutoConvergeIncrement)
	}
	if tls {
		s.set("tls-hostname", tlsHost)
	}
	return s
}

// destSettings are those of the receiving end. Its disks are not locked before the guest is let run.
func destSettings(p migrate.Params, ack, tls bool) settings {
	s := transport(p, ack, tls)
	s.Caps[qmp.CapLateBlockActivate] = true
	return s
}

// bandwidth is QEMU's max-bandwidth for a cap in bytes per second, 0 meaning none.
func bandwidth(b int64) int64 {
	if b <= 0 {
		return math.MaxInt64
	}
	return b
}

// downtimeMS is QEMU's downtime-limit: whole milliseconds, at least one.
func downtimeMS(d time.Duration) int64 {
	if d <= 0 {
		d = defaultDowntime
	}
	return max(1, d.Milliseconds())
}

func multifdCompression(p migrate.Params) string {
	for _, c := range p.Compression {
		if c != "xbzrle" {
			return c
		}
	}
	return "none"
}

// validate refuses what this driver or that QEMU cannot do, before anything is touched.
func validate(p migrate.Params, v qmp.Version) error {
	no := func(what, fix string) error {
		return &migrate.OpError{Op: "check the parameters", Err: fmt.Errorf("%s: %w", what, migrate.ErrNotSupported), Fix: fix}
	}
	switch {
	case !v.AtLeast(4, 0):
		return no(fmt.Sprintf("QEMU %v is older than 4.0", v), "use a newer QEMU")
	case p.Strategy == migrate.StrategyAuto:
		return no("the strategy is still auto", "name one: precopy, postcopy or hybrid")
	case p.PeerToPeer || p.PeerURI != "":
		return no("a bare QEMU cannot drive a migration", "leave out --p2p")
	case p.DestinationXML != "" || p.PersistentXML != "":
		return no("a bare QEMU has no XML", "leave out --xml and --persistent-xml")
	case p.Parallel > 0 && p.Strategy.Postcopy() && !v.AtLeast(10, 1):
		return no(fmt.Sprintf("multifd together with post-copy needs QEMU 10.1, this is %v", v), "leave out --parallel, or migrate by precopy")
	case p.Parallel < 0 || p.Parallel > 255:
		return no(fmt.Sprintf("%d multifd channels", p.Parallel), "ask for 1 to 255")
	case p.AutoConverge && p.DirtyLimit:
		return no("auto-converge and dirty-limit exclude each other", "choose one")
	case p.DirtyLimit && !v.AtLeast(8, 1):
		return no("dirty-limit needs QEMU 8.1", "use --auto-converge")
	case p.Preempt && !p.Strategy.Postcopy():
		return no("preempt belongs to post-copy", "leave it out, or migrate by postcopy or hybrid")
	case p.SharedRAM && p.Strategy.Postcopy():
		return no("QEMU's own post-copy and RAM that somebody else moves exclude each other", "ask for precopy; who moves the RAM may leave some behind")
	}
	return validateCompression(p, no)
}

func validateCompression(p migrate.Params, no func(what, fix string) error) error {
	multi := 0
	for _, c := range p.Compression {
		switch {
		case c == "xbzrle" && (p.Parallel > 0 || p.Strategy.Postcopy()):
			return no("xbzrle goes with neither multifd nor post-copy", "leave it out, or use zstd with --parallel")
		case c == "xbzrle":
		case c != "zlib" && c != "zstd":
			return no(fmt.Sprintf("compression %q", c), "use zstd or zlib with --parallel, or xbzrle")
		case p.Parallel == 0:
			return no(c+" compression needs multifd", "add --parallel")
		default:
			multi++
		}
	}
	if multi > 1 {
		return no("two compressions of multifd", "choose one of "+strings.Join(p.Compression, ", "))
	}
	return nil
}

// current reads all capabilities and parameters.
func (h *Host) current(ctx context.Context) (settings, error) {
	s := newSettings()
	var err error
	if s.Caps, err = qmp.QueryMigrateCapabilities(ctx, h.c); err != nil {
		return s, err
	}
	return s, h.c.Execute(ctx, "query-migrate-parameters", nil, &s.Params)
}

// only keeps of s what want speaks of.
func (s settings) only(want settings) settings {
	out := newSettings()
	for k := range want.Caps {
		if v, ok := s.Caps[k]; ok {
			out.Caps[k] = v
		}
	}
	for k := range want.Params {
		if v, ok := s.Params[k]; ok {
			out.Params[k] = v
		}
	}
	return out
}

// apply sets the capabilities and parameters that QEMU knows. One that has to be on and is not known is an error.
func (h *Host) apply(ctx context.Context, known, want settings) error {
	caps := qmp.Capabilities{}
	for _, name := range sortedKeys(want.Caps) {
		on := want.Caps[name]
		if _, ok := known.Caps[name]; !ok {
			if on {
				return &migrate.OpError{Op: "set up QEMU's migration", Err: fmt.Errorf("QEMU %v has no capability %s: %w",
					h.c.Version(), name, migrate.ErrNotSupported), Fix: "use a newer QEMU, or leave out the option that needs it"}
			}
			continue
		}
		caps[name] = on
	}
	if len(caps) > 0 {
		if err := qmp.SetMigrateCapabilities(ctx, h.c, caps); err != nil {
			return migrate.Fail("set QEMU's migration capabilities", "", err, capabilityFix(err))
		}
	}
	params := map[string]json.RawMessage{}
	for name, v := range want.Params {
		if _, ok := known.Params[name]; ok {
			params[name] = v
		}
	}
	if len(params) == 0 {
		return nil
	}
	return migrate.Fail("set QEMU's migration parameters", "", h.c.Execute(ctx, "migrate-set-parameters", params, nil), "")
}

// capabilityFix knows QEMU's commonest reasons to refuse a capability.
func capabilityFix(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "dirty-ring"):
		return "start QEMU with -accel kvm,dirty-ring-size=65536, or use --auto-converge"
	case strings.Contains(strings.ToLower(text), "userfault"), strings.Contains(text, "Postcopy is not supported"):
		return "let QEMU use userfaultfd: run it as root, or sysctl vm.unprivileged_userfaultfd=1"
	}
	return ""
}

// orNeutral is s, or if nothing was remembered, what a QEMU starts with: that makes it forget the migration of a process
// that is gone, and name no credentials that are about to be removed.
func (s settings) orNeutral() settings {
	if len(s.Caps) > 0 || len(s.Params) > 0 {
		return s
	}
	n := sourceSettings(migrate.Params{}, false, false, "")
	for name := range n.Caps {
		n.Caps[name] = false
	}
	n.set("max-bandwidth", 128<<20)
	return n
}

// restore sets back what only found before.
func (h *Host) restore(ctx context.Context, s settings) error { return h.apply(ctx, s, s) }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
