package check

import (
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Choice says of one strategy whether this migration could use it.
type Choice struct {
	Strategy migrate.Strategy `json:"strategy"`
	Possible bool             `json:"possible"`
	// Certain is false if something that would exclude the strategy could not be ruled out.
	Certain bool `json:"certain"`
	// Why lists what excludes it, or might.
	Why []string `json:"why,omitempty"`
}

// obstacle is one reason against post-copy.
type obstacle struct {
	id, title, why, fix string
	side                migrate.Side
	// certain tells that it excludes post-copy; otherwise it could not be ruled out.
	certain bool
}

// Strategies tells of pre-copy, post-copy and hybrid whether they are possible. Pre-copy always is: what excludes every
// migration is Evaluate's to say.
func Strategies(f Facts) []Choice {
	if byNBD(f) {
		return strategiesOfNBD(f)
	}
	pre := Choice{Strategy: migrate.StrategyPrecopy, Possible: true, Certain: true}
	post := Choice{Strategy: migrate.StrategyPostcopy, Possible: true, Certain: true}
	for _, o := range obstacles(f) {
		post.Possible = post.Possible && !o.certain
		post.Certain = post.Certain && o.certain
		post.Why = append(post.Why, o.title)
	}
	if !post.Possible {
		post.Certain = true
	}
	hybrid := post
	hybrid.Strategy = migrate.StrategyHybrid
	return []Choice{pre, post, hybrid}
}

// Resolve replaces an open strategy by one that is possible and says why it was taken. Auto becomes hybrid if post-copy
// is permitted and nothing speaks against it, else pre-copy. A strategy that the user named is kept; the error wraps
// migrate.ErrNotSupported if it is impossible.
func Resolve(f Facts, p migrate.Params) (migrate.Params, string, error) {
	f.Params = p
	if byNBD(f) {
		return resolveNBD(p)
	}
	obs := obstacles(f)
	switch p.Strategy {
	case migrate.StrategyPrecopy:
		return p, "as asked", nil
	case migrate.StrategyPostcopy, migrate.StrategyHybrid:
		for _, o := range obs {
			if o.certain {
				return p, "", &migrate.OpError{
					Op: "choose " + string(p.Strategy), Phase: migrate.PhaseChecking, Side: o.side, Owner: migrate.OwnerSource,
					Err: fmt.Errorf("%w: %s", migrate.ErrNotSupported, o.title), Fix: o.fix,
				}
			}
		}
		return p, "as asked", nil
	case migrate.StrategyAuto, "":
	default:
		_, err := migrate.ParseStrategy(string(p.Strategy))
		return p, "", &migrate.OpError{Op: "choose a strategy", Phase: migrate.PhaseChecking, Side: migrate.SideCoordinator,
			Owner: migrate.OwnerSource, Err: err, Fix: "use --strategy auto"}
	}
	if len(obs) == 0 {
		p.Strategy = migrate.StrategyHybrid
		return p, "post-copy is permitted at the destination, so the pause does not depend on the dirty rate", nil
	}
	p.Strategy = migrate.StrategyPrecopy
	whys := make([]string, 0, len(obs))
	for _, o := range obs {
		whys = append(whys, o.title)
	}
	return p, "no post-copy: " + strings.Join(whys, "; "), nil
}

// strategiesOfNBD tells of each strategy whether the nbd engine could use it.
func strategiesOfNBD(f Facts) []Choice {
	var out []Choice
	for _, s := range []migrate.Strategy{migrate.StrategyPrecopy, migrate.StrategyPostcopy, migrate.StrategyHybrid} {
		c := Choice{Strategy: s, Possible: true, Certain: true}
		f.Params.Strategy = s
		for _, o := range againstNBD(f) {
			c.Possible = c.Possible && !o.certain
			c.Certain = c.Certain && o.certain
			c.Why = append(c.Why, o.title)
		}
		c.Certain = c.Certain || !c.Possible
		out = append(out, c)
	}
	return out
}

// resolveNBD leaves nothing open for the nbd engine, and takes out what it has no use for and QEMU must not be told.
func resolveNBD(p migrate.Params) (migrate.Params, string, error) {
	why := "as asked"
	switch p.Strategy {
	case migrate.StrategyPrecopy, migrate.StrategyPostcopy, migrate.StrategyHybrid:
	case migrate.StrategyAuto, "":
		p.Strategy, why = migrate.StrategyHybrid, "what is left when rounds shrink no more is fetched after the switch"
	default:
		_, err := migrate.ParseStrategy(string(p.Strategy))
		return p, "", &migrate.OpError{Op: "choose a strategy", Phase: migrate.PhaseChecking, Side: migrate.SideCoordinator,
			Owner: migrate.OwnerSource, Err: err, Fix: "use --strategy auto"}
	}
	p.AutoConverge, p.AutoConvergeInitial, p.AutoConvergeIncrement = false, 0, 0
	p.Parallel, p.Preempt = 0, false
	return p, why, nil
}

// obstacles lists what excludes post-copy, or might.
func obstacles(f Facts) []obstacle {
	var out []obstacle
	for _, ask := range []func(Facts) []obstacle{againstSuspend, againstDisksAfter, againstMultifd, againstDevices, againstBacking, againstUserfault} {
		out = append(out, ask(f)...)
	}
	return out
}

func againstSuspend(f Facts) []obstacle {
	if !f.Params.Suspend {
		return nil
	}
	return []obstacle{{IDPostcopySuspend, "post-copy excludes --suspend", "the guest has to run to fetch its RAM",
		"leave out --suspend", migrate.SideCoordinator, true}}
}

// againstDisksAfter: what QEMU's destination still waits for would be RAM and disks at once.
func againstDisksAfter(f Facts) []obstacle {
	if f.Params.CopyStorage != migrate.CopyAfter {
		return nil
	}
	return []obstacle{{IDPostcopyDisks, "QEMU's own post-copy excludes --copy-storage-after", "its RAM has to be there before the guest goes",
		"use --engine nbd, or --strategy precopy", migrate.SideCoordinator, true}}
}

// againstMultifd: multifd and post-copy together came with QEMU 10.1.
func againstMultifd(f Facts) []obstacle {
	if f.Params.Parallel == 0 {
		return nil
	}
	since := migrate.Version{Major: 10, Minor: 1}
	o := obstacle{id: IDPostcopyMultifd, side: migrate.SideDestination, fix: "leave out --parallel, or use --strategy precopy"}
	src, dst, ok := bothHosts(f)
	switch {
	case ok && !src.QEMUVer.Zero() && !dst.QEMUVer.Zero():
		if !src.QEMUVer.Less(since) && !dst.QEMUVer.Less(since) {
			return nil
		}
		o.title, o.certain = "post-copy with parallel channels needs QEMU 10.1 on both hosts", true
		o.why = fmt.Sprintf("source: %s; destination: %s", version(src.QEMUVer), version(dst.QEMUVer))
	default:
		o.title, o.why = "post-copy with parallel channels may not be possible", "a QEMU's version is not known"
	}
	return []obstacle{o}
}

// againstDevices: some devices cannot wait for pages.
func againstDevices(f Facts) []obstacle {
	g := guestOf(f)
	if g == nil {
		return nil
	}
	var out []obstacle
	add := func(what, why string, certain bool) {
		out = append(out, obstacle{IDPostcopyDevice, what, why, "detach it, or use --strategy precopy", migrate.SideSource, certain})
	}
	for _, d := range g.Devices {
		switch d.Kind {
		case "hostdev", "pci", "mdev":
			add("an assigned device excludes post-copy", describe(d), true)
		case "virtiofs":
			add("a shared directory excludes post-copy", describe(d), true)
		case "vhost-user":
			add("a vhost-user device may exclude post-copy", describe(d), false)
		}
	}
	for _, n := range g.NICs {
		if n.Kind == "vhostuser" {
			add("a vhost-user device may exclude post-copy", n.MAC, false)
		}
	}
	return out
}

// againstBacking: QEMU serves faults on memory and on tmpfs or hugetlbfs, not on files elsewhere.
func againstBacking(f Facts) []obstacle {
	t := thereOf(f)
	if t == nil || t.Backing != migrate.BackingFile {
		return nil
	}
	fix := `there: set memory_backing_dir = "/dev/shm" in /etc/libvirt/qemu.conf, or use --strategy precopy`
	fs := f.RAMFilesystem
	switch {
	case fs.OK && (fs.Value == "tmpfs" || fs.Value == "hugetlbfs"):
		return nil
	case fs.OK:
		return []obstacle{{IDPostcopyBacking, "the guest's RAM is a file that is not on tmpfs or hugetlbfs there",
			"post-copy cannot serve faults on " + fs.Value, fix, migrate.SideDestination, true}}
	}
	return []obstacle{{IDPostcopyBacking, "the guest's RAM is a file that may not be on tmpfs there",
		orUnknown(fs.Why), fix, migrate.SideDestination, false}}
}

func againstUserfault(f Facts) []obstacle {
	permitted, certain, why := userfault(f.Userfault)
	if permitted {
		return nil
	}
	o := obstacle{IDPostcopyUserfault, "the destination's QEMU may not use userfaultfd", why,
		"there: sysctl -w vm.unprivileged_userfaultfd=1", migrate.SideDestination, certain}
	if !certain {
		o.title = "the destination's QEMU may not be allowed to use userfaultfd"
	}
	return []obstacle{o}
}

// userfault decides from the facts whether the destination's QEMU may open a userfaultfd.
func userfault(a Answer[UserfaultFacts]) (permitted, certain bool, why string) {
	u := a.Value
	switch {
	case !a.OK:
		return false, false, orUnknown(a.Why)
	case u.Missing:
		return false, true, "its kernel has no userfaultfd"
	case u.Sysctl.OK && strings.TrimSpace(u.Sysctl.Value) == "1":
		return true, true, ""
	case u.Privileged.OK && u.Privileged.Value:
		return true, true, ""
	}
	device := u.Device.OK && u.Device.Value != nil && u.DeviceAllowed
	if device && u.User.OK && u.Device.Value.Allows(u.User.Value.UID, u.User.Value.GIDs, 6) {
		return true, true, ""
	}
	switch {
	case !u.Sysctl.OK:
		return false, false, "vm.unprivileged_userfaultfd: " + u.Sysctl.Why
	case device && !u.User.OK:
		return false, false, "who QEMU runs as: " + u.User.Why
	case !u.Device.OK:
		return false, false, "/dev/userfaultfd: " + u.Device.Why
	case !u.Privileged.OK:
		return false, false, "QEMU's privileges: " + u.Privileged.Why
	}
	return false, true, fmt.Sprintf("vm.unprivileged_userfaultfd is 0 and %s may not open /dev/userfaultfd", orUnknown(u.User.Value.Name))
}

// rulePostcopy: what excludes post-copy blocks those who asked for it, and explains pre-copy to the others.
func rulePostcopy(f Facts) []Finding {
	if guestOf(f) == nil || f.Params.Strategy == migrate.StrategyPrecopy || byNBD(f) {
		return nil
	}
	var out []Finding
	for _, o := range obstacles(f) {
		sev := Info
		switch {
		case !o.certain:
			sev = Unknown
		case f.Params.Strategy.Postcopy():
			sev = Blocker
		}
		out = append(out, one(o.id, sev, o.side, o.title, o.why, o.fix)...)
	}
	return out
}

// ruleRecovery: a post-copy whose link broke can be recovered. Our engine leaves a link that stalls to TCP, which makes up
// for most of what happens to links; so this is no warning.
func ruleRecovery(f Facts) []Finding {
	if guestOf(f) == nil || !f.Dest.Facts.OK || byNBD(f) {
		return nil
	}
	p, _, err := Resolve(f, f.Params)
	if err != nil || !p.Strategy.Postcopy() && !p.TimeoutPostcopy {
		return nil
	}
	v := f.Dest.Facts.Value.LibVer
	broken, fixed := migrate.Version{Major: 11, Minor: 2}, migrate.Version{Major: 11, Minor: 4}
	if v.Less(broken) || !v.Less(fixed) {
		return nil
	}
	return one(IDPostcopyRecovery, Info, migrate.SideDestination, "a post-copy whose link breaks cannot be recovered there",
		fmt.Sprintf("libvirt %s crashes when it is asked to; the guest would wait there, paused, until it is updated", version(v)),
		"upgrade libvirt at the destination to 11.4 or later, or use --strategy precopy")
}
