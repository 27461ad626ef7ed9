package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Options say how to look. The zero value is good.
type Options struct {
	// Timeout bounds each query; 0 is 10 s.
	Timeout time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Open makes the view of a host from its URI; nil is OpenView. It returns nil and no error where there is no way to
	// look at the host.
	Open func(ctx context.Context, uri string) (View, error)
	// Engine is the one that was asked for; empty is auto. NBD tells that the nbd engine is to be had.
	Engine migrate.EngineName
	NBD    bool
	// Agent asks for an agent at a place and tells why there is none; nil judges by the place alone.
	Agent func(ctx context.Context, side migrate.Side, p migrate.Place) error
	// Images has an agent at the destination look at what is where disks are to be copied to, by target; nil leaves that to
	// the driver.
	Images func(ctx context.Context, at migrate.Place, disks []migrate.Disk) (map[string]migrate.VolumeFacts, error)
}

func (o Options) withDefaults() Options {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Open == nil {
		o.Open = OpenView
	}
	return o
}

// Run looks at both hosts and tells what it found: Gather, Evaluate and Resolve in one. It fails only if ctx ends.
func Run(ctx context.Context, src, dst migrate.Host, domain string, p migrate.Params, o Options) (Result, error) {
	f, err := Gather(ctx, src, dst, domain, p, o)
	if err != nil {
		return Result{}, err
	}
	return Conclude(f), nil
}

// Conclude makes the result of the facts. It is pure.
func Conclude(f Facts) Result {
	r := Result{
		Domain: f.Domain, Source: f.Source.URI, Destination: f.Dest.URI,
		Findings: Evaluate(f),
	}
	if guestOf(f) == nil {
		return r // there is nothing to move in one way or another
	}
	r.Engine, r.EngineReason = ChooseEngine(f)
	r.Strategies, r.Work = Strategies(f), workOf(f)
	if p, why, err := Resolve(f, f.Params); err == nil {
		r.Strategy, r.Reason, r.Params = p.Strategy, why, p
	}
	return r
}

// gatherer asks. Its fields do not change once the questions are under way.
type gatherer struct {
	o        Options
	src, dst migrate.Host
	p        migrate.Params
	domain   string
	// The views, nil where there is none; then the error says why.
	srcView, dstView View
	srcErr, dstErr   error
}

// Gather asks both hosts all that Evaluate and Resolve want to know. A query that fails is an answer that could not be
// told; the only error is that of ctx. Nothing on the hosts is changed. src and dst stay the caller's.
func Gather(ctx context.Context, src, dst migrate.Host, domain string, p migrate.Params, o Options) (Facts, error) {
	g := &gatherer{o: o.withDefaults(), src: src, dst: dst, p: p, domain: domain}
	f := Facts{Domain: domain, Params: p, Engine: o.Engine, HasNBD: o.NBD, Now: g.o.Now(), Source: HostSide{URI: src.URI()}, Dest: HostSide{URI: dst.URI()}}
	// First what the other questions build on …
	together(
		func() { f.Guest = ask(ctx, g, finder(src, domain)) },
		func() {
			g.srcView, f.Source.Conf, g.srcErr = g.view(ctx, src.URI())
			f.Source.Facts = g.host(ctx, src, g.srcView)
		},
		func() {
			g.dstView, f.Dest.Conf, g.dstErr = g.view(ctx, dst.URI())
			f.Dest.Facts = g.host(ctx, dst, g.dstView)
		},
	)
	f.There = g.there(f)
	// … then the rest, each reading only base and writing fields of its own.
	base := f
	together(
		func() { g.guest(ctx, base, &f) },
		func() { g.rivals(ctx, base, &f) },
		func() { g.platform(ctx, base, &f) },
		func() { f.Images, f.Shared = g.images(ctx, base.There, bareQEMU(base.Dest)) },
		func() { f.InUse = g.inUse(ctx, base.There) },
		func() { f.Links = g.links(ctx, base.There) },
		func() { f.Userfault, f.RAMFilesystem = g.userfault(ctx, base.Dest), g.ramThere(ctx, base) },
		func() { f.Reach = g.reach(ctx, base.Source, base.Dest) },
		func() { f.Certs = g.certs(ctx, base.Source, base.Dest) },
		func() { f.NBD = g.nbd(ctx, base) },
	)
	if err := ctx.Err(); err != nil {
		return f, migrate.Fail("look at both hosts", migrate.SideCoordinator, err, "")
	}
	return f, nil
}

// together runs the functions at once and returns when all have.
func together(fns ...func()) {
	var wg sync.WaitGroup
	for _, fn := range fns {
		wg.Go(fn)
	}
	wg.Wait()
}

// ask bounds one question and turns its failure into an answer.
func ask[T any](ctx context.Context, g *gatherer, question func(context.Context) (T, error)) Answer[T] {
	qctx, cancel := context.WithTimeout(ctx, g.o.Timeout)
	defer cancel()
	v, err := question(qctx)
	switch {
	case err == nil:
		return Known(v)
	case errors.Is(err, context.DeadlineExceeded) && qctx.Err() != nil:
		return CouldNotTell[T](fmt.Sprintf("no answer within %s", g.o.Timeout))
	}
	return CouldNotTell[T](err.Error())
}

// host asks a host about itself. Where it can be looked at, that tells how much memory could be had, of which the memory
// that is free is only a part.
func (g *gatherer) host(ctx context.Context, h migrate.Host, v View) Answer[migrate.HostFacts] {
	a := ask(ctx, g, h.Facts)
	if !a.OK {
		return a
	}
	if a.Value.Clock.IsZero() {
		g.clock(ctx, v, &a.Value)
	}
	if v == nil {
		return a
	}
	free := ask(ctx, g, func(ctx context.Context) (int64, error) {
		text, err := v.ReadFile(ctx, "/proc/meminfo")
		if err != nil {
			return 0, err
		}
		return parseAvailable(text)
	})
	if free.OK {
		a.Value.FreeBytes = &free.Value
	}
	return a
}

// clock tells a host's time where its driver does not: by a look at the host, or from our own clock if the host is on this
// machine, though we may see nothing else of it (its process may be out of our sight in another PID namespace).
func (g *gatherer) clock(ctx context.Context, v View, f *migrate.HostFacts) {
	before := g.o.Now()
	switch {
	case v != nil:
		clock := ask(ctx, g, v.Clock)
		if after := g.o.Now(); clock.OK {
			f.Uncertainty = after.Sub(before) / 2
			f.Clock, f.Asked = clock.Value, before.Add(f.Uncertainty)
		}
	case f.Local:
		f.Clock, f.Asked, f.Uncertainty = before, before, 0
	}
}

// finder asks a host for a domain; nil if there is none of that name.
func finder(h migrate.Host, name string) func(context.Context) (*migrate.DomainFacts, error) {
	return func(ctx context.Context) (*migrate.DomainFacts, error) {
		d, err := h.Domain(ctx, name)
		switch {
		case errors.Is(err, migrate.ErrNoDomain):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return &d, nil
	}
}

// there is the guest as it would be at the destination.
func (g *gatherer) there(f Facts) Answer[migrate.DomainFacts] {
	guest := guestOf(f)
	if guest == nil {
		return Answer[migrate.DomainFacts]{}
	}
	if g.p.DestinationXML == "" {
		d := *guest
		d.Disks = make([]migrate.Disk, 0, len(guest.Disks))
		for _, k := range guest.Disks {
			d.Disks = append(d.Disks, g.p.MapDisk(k))
		}
		return Known(d)
	}
	d, err := overlay(*guest, g.p.DestinationXML)
	if err != nil {
		return CouldNotTell[migrate.DomainFacts](err.Error())
	}
	return Known(d)
}

// guest asks the source what else could be in the way.
func (g *gatherer) guest(ctx context.Context, base Facts, f *Facts) {
	if guestOf(base) == nil {
		return
	}
	if h, ok := g.src.(snapshotCounter); ok {
		f.Snapshots = ask(ctx, g, func(ctx context.Context) (int, error) { return h.Snapshots(ctx, g.domain) })
	}
	if h, ok := g.src.(blockJobLister); ok {
		f.BlockJobs = ask(ctx, g, func(ctx context.Context) ([]string, error) { return h.BlockJobs(ctx, g.domain) })
	}
	if h, ok := g.src.(blockerLister); ok {
		f.Blockers = ask(ctx, g, func(ctx context.Context) ([]string, error) { return h.MigrationBlockers(ctx, g.domain) })
	}
}

// rivals looks for domains of the guest's name and UUID at the destination. A bare QEMU has no names to clash with.
func (g *gatherer) rivals(ctx context.Context, base Facts, f *Facts) {
	guest := guestOf(base)
	if guest == nil || bareQEMU(base.Dest) {
		return
	}
	f.Namesake = ask(ctx, g, finder(g.dst, destinationName(base)))
	if guest.UUID != "" {
		f.Twin = ask(ctx, g, finder(g.dst, guest.UUID))
	}
}

// The names of the drivers in migrate.HostFacts.
const (
	driverLibvirt = "libvirt"
	driverQEMU    = "qemu"
)

// platform asks the destination for the guest's machine type, CPU and huge pages.
func (g *gatherer) platform(ctx context.Context, base Facts, f *Facts) {
	t := thereOf(base)
	if t == nil {
		return
	}
	arch, virt := archOf(t.XML), t.Accel
	if virt == "tcg" {
		virt = "qemu"
	}
	if h, ok := g.dst.(machineLister); ok && t.Machine != "" {
		f.Machines = ask(ctx, g, func(ctx context.Context) ([]string, error) {
			return h.MachineTypes(ctx, t.Emulator, arch, virt)
		})
	}
	// Without the machine type the CPU cannot be asked for, and need not.
	if t.CPU != "" && (!f.Machines.OK || slices.Contains(f.Machines.Value, t.Machine)) {
		f.CPU = g.cpu(ctx, *t, arch, virt)
	}
	if h, ok := g.dst.(hugePager); ok && t.Backing == migrate.BackingHugetlb && t.PageSize > 0 {
		f.HugePages = ask(ctx, g, func(ctx context.Context) (int64, error) { return h.HugePagesFree(ctx, t.PageSize) })
	}
}

// cpu asks in the most precise way that the driver offers. The host's default emulator says nothing against a guest
// under TCG if it is KVM's.
func (g *gatherer) cpu(ctx context.Context, t migrate.DomainFacts, arch, virt string) Answer[CPUFit] {
	if h, ok := g.dst.(cpuComparerOn); ok {
		return ask(ctx, g, func(ctx context.Context) (CPUFit, error) {
			fits, why, err := h.CompareCPUOn(ctx, t.Emulator, arch, t.Machine, virt, t.CPU)
			return CPUFit{fits, why}, err
		})
	}
	h, ok := g.dst.(cpuComparer)
	if !ok {
		return Answer[CPUFit]{}
	}
	a := ask(ctx, g, func(ctx context.Context) (CPUFit, error) {
		fits, why, err := h.CompareCPU(ctx, t.CPU)
		return CPUFit{fits, why}, err
	})
	if a.OK && !a.Value.Compatible && t.Accel == "tcg" {
		return CouldNotTell[CPUFit]("the host's default, which need not be TCG: " + a.Value.Why)
	}
	return a
}

// links asks whether what the network cards are plugged into exists at the destination.
func (g *gatherer) links(ctx context.Context, there Answer[migrate.DomainFacts]) map[Link]Answer[bool] {
	out := map[Link]Answer[bool]{}
	nets := Answer[[]string]{}
	for _, n := range there.Value.NICs {
		l := Link{n.Kind, n.Source}
		switch n.Kind {
		case "bridge":
			out[l] = g.bridge(ctx, n.Source)
		case "network":
			h, ok := g.dst.(networkLister)
			if !ok {
				continue
			}
			if !nets.asked() {
				nets = ask(ctx, g, h.Networks)
			}
			out[l] = Answer[bool]{Value: slices.Contains(nets.Value, n.Source), OK: nets.OK, Why: nets.Why}
		}
	}
	return out
}

// bridge looks itself where it can; libvirt knows the host's devices only with drivers that many hosts lack.
func (g *gatherer) bridge(ctx context.Context, name string) Answer[bool] {
	if g.dstView != nil {
		if has := ask(ctx, g, g.dstView.Devices); has.OK {
			return Known(has.Value[name])
		}
	}
	h, ok := g.dst.(bridgeLooker)
	if !ok {
		return Answer[bool]{}
	}
	return ask(ctx, g, func(ctx context.Context) (bool, error) { return hasBridge(ctx, h, name) })
}

func hasBridge(ctx context.Context, h bridgeLooker, name string) (bool, error) {
	known, ok := h.HasBridge(ctx, name)
	if !known {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		return false, errors.New("the host cannot tell its network devices")
	}
	return ok, nil
}
