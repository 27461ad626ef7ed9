package check

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// appArmorLocal is where a host's owner adds to what QEMUs may do under AppArmor.
const appArmorLocal = "/etc/apparmor.d/local/abstractions/libvirt-qemu"

// nbd looks at what the nbd engine needs. Nothing is started for it, and no agent is spoken to unless Options.Agent does.
func (g *gatherer) nbd(ctx context.Context, base Facts) (n NBDFacts) {
	if !base.HasNBD || base.Engine == migrate.EngineNative || guestOf(base) == nil {
		return n
	}
	together(
		func() { n.SourceKernel = g.kernel(ctx, g.srcView, g.srcErr) },
		func() { n.DestKernel = g.kernel(ctx, g.dstView, g.dstErr) },
		func() {
			n.SourceRAM = g.ramOn(ctx, guestOf(base), base.Source, g.srcView, g.srcErr)
		},
		func() {
			n.Waiting = g.waiting(ctx, base)
			n.WaitingRAM = g.ramOn(ctx, n.Waiting.Value, base.Dest, g.dstView, g.dstErr)
		},
		func() { n.SourceAgent = g.agent(ctx, migrate.SideSource, g.src) },
		func() { n.DestAgent = g.agent(ctx, migrate.SideDestination, g.dst) },
		func() { n.Confined = g.confined(ctx, base.Dest) },
	)
	return n
}

func noWayToLook[T any](why error) Answer[T] {
	return CouldNotTell[T]("there is no way to look at the host" + because(why))
}

func (g *gatherer) kernel(ctx context.Context, v View, why error) Answer[string] {
	if v == nil {
		return noWayToLook[string](why)
	}
	return ask(ctx, g, func(ctx context.Context) (string, error) {
		b, err := v.ReadFile(ctx, "/proc/sys/kernel/osrelease")
		return strings.TrimSpace(string(b)), err
	})
}

// ramOn tells what file system holds a guest's RAM on a host, if it is in files: of a running guest where they are, of one
// that is to come where libvirt will make them.
func (g *gatherer) ramOn(ctx context.Context, d *migrate.DomainFacts, side HostSide, v View, why error) Answer[string] {
	switch {
	case d == nil || !d.RAMFiles && d.Backing != migrate.BackingFile:
		return Answer[string]{}
	case v == nil:
		return noWayToLook[string](why)
	case bareQEMU(side) && d.RAMPath == "", !bareQEMU(side) && !side.Conf.OK:
		return CouldNotTell[string]("where the file is is not known")
	}
	dir := d.RAMPath
	if !bareQEMU(side) {
		dir = side.Conf.Value.memoryDir()
	}
	return ask(ctx, g, func(ctx context.Context) (string, error) {
		// libvirt makes the folder when it needs it; until then, what holds its parent is what will hold it.
		for ; ; dir = path.Dir(dir) {
			fsType, err := v.Filesystem(ctx, dir)
			if !errors.Is(err, fs.ErrNotExist) || dir == path.Dir(dir) {
				return fsType, err
			}
		}
	})
}

// ramThere is the same for the guest at the destination. Where a bare QEMU there has its RAM the guest does not tell.
func (g *gatherer) ramThere(ctx context.Context, base Facts) Answer[string] {
	t := thereOf(base)
	if t == nil {
		return Answer[string]{}
	}
	d := *t
	d.RAMPath = ""
	return g.ramOn(ctx, &d, base.Dest, g.dstView, g.dstErr)
}

// waiting is the guest that a bare QEMU at the destination was started for.
func (g *gatherer) waiting(ctx context.Context, base Facts) Answer[*migrate.DomainFacts] {
	if !bareQEMU(base.Dest) {
		return Answer[*migrate.DomainFacts]{}
	}
	name := destinationName(base)
	if guest := guestOf(base); guest.Name == "" && g.p.DestinationName == "" {
		name = "-"
	}
	return ask(ctx, g, finder(g.dst, name))
}

// agent finds out whether an agent can be had on a host.
func (g *gatherer) agent(ctx context.Context, side migrate.Side, h migrate.Host) Answer[AgentFacts] {
	return ask(ctx, g, func(ctx context.Context) (AgentFacts, error) {
		l, ok := h.(migrate.Located)
		if _, asks := h.(migrate.Monitored); !ok || !asks && side == migrate.SideSource {
			return AgentFacts{Why: "the driver of " + h.URI() + " knows no agents", Fix: useNative}, nil
		}
		p, err := l.Place(ctx)
		switch {
		case errors.Is(err, migrate.ErrNotSupported):
			return AgentFacts{Why: err.Error(), Fix: migrate.FixOf(err)}, nil
		case err != nil:
			return AgentFacts{}, err
		}
		a := AgentFacts{Place: p}
		if g.o.Agent != nil {
			if err := g.o.Agent(ctx, side, p); err != nil {
				a.Why, a.Fix = err.Error(), migrate.FixOf(err)
				return a, nil
			}
			a.Able = true
			return a, nil
		}
		return a, byPlace(&a)
	})
}

// byPlace judges by the place alone; the error says that it cannot.
func byPlace(a *AgentFacts) error {
	switch p := a.Place; {
	case p.Local:
		status, err := os.ReadFile("/proc/self/status")
		if err == nil {
			a.Able, err = parsePtrace(status)
		}
		if !a.Able {
			a.Why, a.Fix = "we lack CAP_SYS_PTRACE, and could not reach into QEMU", "run vmmigrate as root, or "+useNative
		}
		return err
	case p.SSH != "":
		a.Able = true
		return nil
	}
	return errors.New("it was not asked for one")
}

// confined tells whether AppArmor keeps libvirt's QEMUs from making sockets of ours.
func (g *gatherer) confined(ctx context.Context, dst HostSide) Answer[bool] {
	if bareQEMU(dst) || g.dstView == nil || !dst.Conf.OK {
		return Answer[bool]{} // where nothing can be seen, other findings say so
	}
	if s := dst.Conf.Value.SecurityDrivers; len(s) > 0 && !slices.Contains(s, "apparmor") {
		return Known(false)
	}
	on, err := g.dstView.ReadFile(ctx, "/sys/module/apparmor/parameters/enabled")
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(on)) != "Y" {
		return Known(false)
	}
	if err != nil {
		return CouldNotTell[bool](err.Error())
	}
	local, err := g.dstView.ReadFile(ctx, appArmorLocal)
	if err == nil && strings.Contains(string(local), "/var/lib/libvirt/qemu/vmmigrate-") {
		return Known(false)
	}
	return Answer[bool]{Value: true, OK: true, Why: "it is in force there, and " + appArmorLocal + " has no rule for us"}
}
