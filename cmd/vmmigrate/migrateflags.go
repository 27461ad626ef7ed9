package main

import (
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// migrateFlags are the options of migrate and check. Virsh's spellings stand beside ours wherever both have the thing.
type migrateFlags struct {
	domain, dest string

	engine, strategy         string
	prepage, tracker         string
	plainData                bool
	reuse, keepCopy          bool
	reuseRAM                 string
	maxDowntime, maxDuration time.Duration
	dryRun                   bool

	live, p2p, direct, postcopy, afterPrecopy      bool
	persistent, undefine, suspend, unsafe          bool
	tls, autoConverge, dirtyLimit, preempt         bool
	parallel                                       bool
	connections, acInitial, acIncrement, disksPort int
	copyAll, copyInc, copyAfter, syncWrites        bool
	bandwidth, postcopyBandwidth, diskBandwidth    string
	diskIdle, diskFull                             time.Duration
	migrateURI, peerURI, listen, dname             string
	xmlFile, persistentXMLFile                     string
	disks, maps, compression                       []string
	disksURI, tlsDestination                       string
	timeout                                        int
	timeoutSuspend, timeoutPostcopy                bool
}

func (f *migrateFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.engine, "engine", "auto", "`ENGINE` that moves the RAM: native, nbd, or auto for nbd where it is to be had and nothing speaks against it")
	fs.StringVar(&f.strategy, "strategy", "auto", "`STRATEGY`: precopy, postcopy, hybrid, or auto for hybrid where post-copy is permitted, else precopy")
	fs.DurationVar(&f.maxDowntime, "max-downtime", 300*time.Millisecond, "longest `TIME` to pause for in pre-copy; it is approached in steps")
	fs.DurationVar(&f.maxDuration, "max-duration", 0, "give up after this `TIME` if the guest has not switched; it stays on the source (exit 5; default: never)")
	fs.StringVar(&f.bandwidth, "bandwidth", "", "cap of the copy: a `RATE` in MiB/s as in virsh, or with its unit: 500mbit, 100MiB (default: none)")
	fs.StringVar(&f.postcopyBandwidth, "postcopy-bandwidth", "", "cap of the background copy after the switch to post-copy: a `RATE` as above (default: none)")
	fs.StringVar(&f.migrateURI, "migrateuri", "", "`URI` to which the source sends RAM, such as tcp://host:port (default: the destination says)")
	fs.StringVar(&f.peerURI, "peer-uri", "", "with --p2p: the destination's `URI` as the source's daemon reaches it")
	fs.StringVar(&f.listen, "listen-address", "", "`ADDRESS` that the destination listens on")
	fs.StringVar(&f.dname, "dname", "", "new `NAME` of the domain at the destination")
	fs.StringVar(&f.xmlFile, "xml", "", "`FILE` with the domain's XML for the destination")
	fs.StringVar(&f.persistentXMLFile, "persistent-xml", "", "`FILE` with the XML to define with --persistent")
	fs.BoolVar(&f.reuse, "reuse", false, "use what the destination still holds of the guest, and fetch only what differs")
	f.registerAgents(fs)
	f.registerSwitches(fs)
	f.registerDisks(fs)
	f.registerTuning(fs)
}

// registerAgents has the options of the nbd engine.
func (f *migrateFlags) registerAgents(fs *pflag.FlagSet) {
	fs.StringVar(&f.prepage, "prepage", "", "engine nbd: `POLICY` by which pages are fetched after the switch before they are asked for: "+
		strings.Join(prepagers(), ", ")+" (default: the engine's choice)")
	fs.StringVar(&f.tracker, "tracker", "", "engine nbd: `KIND` of dirty tracking: "+strings.Join(trackers(), ", ")+" (default: the best there is)")
	fs.BoolVar(&f.plainData, "plain-data", false, "engine nbd: do not encrypt what the agents send each other")
	fs.StringVar(&f.reuseRAM, "reuse-ram", "", "engine nbd: `FILE` at the destination with an older copy of the guest's RAM, such as nbdcopy makes of the export ram, to reuse")
	fs.BoolVar(&f.keepCopy, "keep-copy", false, "engine nbd: leave a copy of the guest's RAM at the source, for a return with --reuse")
}

func prepagers() []string { return []string{"none", "linear", "bubble", "stride", "hotset"} }
func trackers() []string  { return []string{"uffd-wp", "soft-dirty", "hash"} }

// setAgents takes the options of the nbd engine.
func (f *migrateFlags) setAgents(p *migrate.Params) error {
	for _, o := range []struct {
		flag, value string
		known       []string
	}{{"--prepage", f.prepage, prepagers()}, {"--tracker", f.tracker, trackers()}} {
		if o.value != "" && !slices.Contains(o.known, o.value) {
			return usagef("%s %q is not one of %s", o.flag, o.value, strings.Join(o.known, ", "))
		}
	}
	if f.plainData && f.tls {
		return usagef("--tls and --plain-data contradict each other")
	}
	if f.reuseRAM != "" && !path.IsAbs(f.reuseRAM) {
		return usagef("--reuse-ram %s: a file of the destination wants its whole path", f.reuseRAM)
	}
	p.Prepage, p.Tracker, p.PlainData, p.KeepCopy, p.ReuseRAM = f.prepage, f.tracker, f.plainData, f.keepCopy, f.reuseRAM
	return nil
}

func (f *migrateFlags) registerSwitches(fs *pflag.FlagSet) {
	fs.BoolVar(&f.live, "live", true, "move the guest while it runs; always so, accepted for virsh's sake")
	fs.BoolVar(&f.p2p, "p2p", false, "let the source's daemon drive the migration")
	fs.BoolVar(&f.direct, "direct", false, "accepted for virsh's sake; both daemons are driven from here unless --p2p is given")
	fs.BoolVar(&f.postcopy, "postcopy", false, "same as --strategy hybrid: pre-copy that may go over to post-copy")
	fs.BoolVar(&f.afterPrecopy, "postcopy-after-precopy", false, "same as --strategy hybrid")
	fs.BoolVar(&f.persistent, "persistent", false, "define the domain at the destination")
	fs.BoolVar(&f.undefine, "undefinesource", false, "undefine the domain at the source")
	fs.BoolVar(&f.suspend, "suspend", false, "leave the guest paused at the destination")
	fs.BoolVar(&f.unsafe, "unsafe", false, "migrate although libvirt thinks that disks may be corrupted")
	fs.BoolVar(&f.tls, "tls", false, "encrypt RAM and disk streams")
	fs.StringVar(&f.tlsDestination, "tls-destination", "", "`NAME` in the destination's certificate, if not its host name")
}

func (f *migrateFlags) registerDisks(fs *pflag.FlagSet) {
	fs.BoolVar(&f.copyAll, "copy-storage-all", false, "move the guest's own disks too, in full")
	fs.BoolVar(&f.copyInc, "copy-storage-inc", false, "move the guest's own disks too, sharing the backing files")
	fs.BoolVar(&f.copyAfter, "copy-storage-after", false, "move the guest's own disks too, after the guest: it runs at the destination at once, and what it reads is fetched")
	fs.BoolVar(&f.syncWrites, "copy-storage-synchronous-writes", false, "guest writes wait for the destination, so that the mirror converges")
	fs.StringSliceVar(&f.disks, "migrate-disks", nil, "`DISKS` to move, by target: vda,vdb (default: all that can be written)")
	fs.StringSliceVar(&f.disks, "migrate-disk", nil, "same as --migrate-disks")
	fs.StringArrayVar(&f.maps, "disk", nil, "put a disk that is moved elsewhere: `TARGET=/PATH`[,format=qcow2|raw]; its image is made there; may be repeated")
	fs.StringVar(&f.diskBandwidth, "bandwidth-disk", "", "cap of the copies of all disks together: a `RATE` as for --bandwidth (default: that of --bandwidth)")
	fs.DurationVar(&f.diskIdle, "disk-idle", 30*time.Second, "give up if the copy of a disk moves nothing for this `TIME`; the guest stays at the source (0: never)")
	fs.DurationVar(&f.diskFull, "disk-full", 10*time.Minute, "wait this `TIME` for room if the destination's storage is full, where the hypervisor can; the guest runs on (0: do not wait)")
	fs.IntVar(&f.disksPort, "disks-port", 0, "`PORT` of the disks' NBD server at the destination (default: one is chosen)")
	fs.StringVar(&f.disksURI, "disks-uri", "", "`URI` where the disks' NBD server listens: tcp://host:port or unix:///path")
	_ = fs.MarkHidden("migrate-disk")
}

func (f *migrateFlags) registerTuning(fs *pflag.FlagSet) {
	fs.BoolVar(&f.autoConverge, "auto-converge", false, "throttle the guest when it dirties faster than the link carries")
	fs.IntVar(&f.acInitial, "auto-converge-initial", 0, "first throttle in `PERCENT` (default: QEMU's, 20)")
	fs.IntVar(&f.acIncrement, "auto-converge-increment", 0, "step of the throttle in `PERCENT` (default: QEMU's, 10)")
	fs.BoolVar(&f.dirtyLimit, "dirty-limit", false, "throttle vCPUs by dirty rate instead (bare QEMU, KVM with a dirty ring)")
	fs.BoolVar(&f.parallel, "parallel", false, "send RAM over several connections (multifd); with post-copy only from QEMU 10.1 on")
	fs.IntVar(&f.connections, "parallel-connections", 0, "`NUMBER` of connections, implies --parallel (default: 4)")
	fs.StringSliceVar(&f.compression, "comp-methods", nil, "`METHODS` to compress RAM: zstd or zlib, with --parallel, or xbzrle")
	fs.BoolVar(&f.preempt, "postcopy-preempt", false, "page requests on a connection of their own (bare QEMU)")
	fs.IntVar(&f.timeout, "timeout", 0, "after so many `SECONDS` suspend the guest, so that the migration ends (default: never)")
	fs.BoolVar(&f.timeoutSuspend, "timeout-suspend", false, "suspend the guest at the --timeout, which is the default")
	fs.BoolVar(&f.timeoutPostcopy, "timeout-postcopy", false, "go over to post-copy at the --timeout instead")
}

// args takes the positional arguments: DOMAIN DESTURI [MIGRATEURI]. Virsh has more of them, which mean other things.
func (f *migrateFlags) args(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return usagef("want DOMAIN DESTURI [MIGRATEURI], got %d arguments", len(args))
	}
	f.domain, f.dest = args[0], args[1]
	if len(args) == 3 {
		if f.migrateURI != "" && f.migrateURI != args[2] {
			return usagef("%q and %q are given for the same thing", f.migrateURI, args[2])
		}
		f.migrateURI = args[2]
	}
	if f.domain == "" || f.dest == "" {
		return usagef("DOMAIN and DESTURI may not be empty")
	}
	return nil
}

// params turns the flags into a migration's parameters; auto is still in them.
func (f *migrateFlags) params() (migrate.Params, error) {
	p := migrate.Params{
		MigrateURI: f.migrateURI, ListenAddress: f.listen, DestinationName: f.dname,
		Persistent: f.persistent, UndefineSource: f.undefine, Suspend: f.suspend, Unsafe: f.unsafe,
		PeerToPeer: f.p2p, PeerURI: f.peerURI, MaxDowntime: f.maxDowntime, MaxDuration: f.maxDuration,
		AutoConverge: f.autoConverge, AutoConvergeInitial: f.acInitial, AutoConvergeIncrement: f.acIncrement,
		DirtyLimit: f.dirtyLimit, Preempt: f.preempt, Compression: f.compression,
		MigrateDisks: f.disks, SynchronousWrites: f.syncWrites, DisksPort: f.disksPort, DisksURI: f.disksURI,
		TLS: f.tls, TLSDestination: f.tlsDestination, Reuse: f.reuse,
		Timeout: time.Duration(f.timeout) * time.Second, TimeoutPostcopy: f.timeoutPostcopy,
	}
	steps := []func(*migrate.Params) error{f.setStrategy, f.setAgents, f.setLimits, f.setDisks, f.setBandwidth, f.setXML}
	for _, set := range steps {
		if err := set(&p); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (f *migrateFlags) setStrategy(p *migrate.Params) (err error) {
	if p.Strategy, err = migrate.ParseStrategy(f.strategy); err != nil {
		return usageError{err}
	}
	if f.postcopy || f.afterPrecopy {
		if p.Strategy == migrate.StrategyPrecopy {
			return usagef("--postcopy and --strategy precopy contradict each other")
		}
		if p.Strategy == migrate.StrategyAuto {
			p.Strategy = migrate.StrategyHybrid
		}
	}
	if f.p2p && f.direct {
		return usagef("--p2p and --direct contradict each other")
	}
	if f.timeoutSuspend && f.timeoutPostcopy {
		return usagef("--timeout-suspend and --timeout-postcopy contradict each other")
	}
	if f.timeoutPostcopy && p.Strategy == migrate.StrategyPrecopy {
		return usagef("--timeout-postcopy and --strategy precopy contradict each other")
	}
	if (f.timeoutPostcopy || f.timeoutSuspend) && f.timeout == 0 {
		return usagef("--timeout-suspend and --timeout-postcopy need --timeout SECONDS")
	}
	return nil
}

func (f *migrateFlags) setLimits(p *migrate.Params) error {
	if !f.live {
		return usagef("--live=false: a guest that does not run is not ours to move; use virsh migrate --offline")
	}
	if f.maxDowntime < time.Millisecond || f.maxDowntime > 2000*time.Second {
		return usagef("--max-downtime %v is not between 1ms and 2000s", f.maxDowntime)
	}
	if f.maxDuration < 0 || f.timeout < 0 {
		return usagef("a time limit cannot be negative")
	}
	if f.connections < 0 || f.connections > 255 {
		return usagef("--parallel-connections %d is not between 1 and 255", f.connections)
	}
	for name, v := range map[string]int{"--auto-converge-initial": f.acInitial, "--auto-converge-increment": f.acIncrement} {
		if v < 0 || v > 99 {
			return usagef("%s %d is not a percentage below 100", name, v)
		}
		if v > 0 && !f.autoConverge {
			return usagef("%s needs --auto-converge", name)
		}
	}
	if f.parallel || f.connections > 0 {
		p.Parallel = f.connections
		if p.Parallel == 0 {
			p.Parallel = 4
		}
	}
	return nil
}

func (f *migrateFlags) setDisks(p *migrate.Params) error {
	if f.copyAll && f.copyInc {
		return usagef("--copy-storage-all and --copy-storage-inc contradict each other")
	}
	if f.copyAfter && (f.copyAll || f.copyInc || f.syncWrites || f.disksPort != 0 || f.disksURI != "") {
		return usagef("--copy-storage-after and another option for copying disks contradict each other")
	}
	switch {
	case f.copyAfter:
		p.CopyStorage = migrate.CopyAfter
	case f.copyAll:
		p.CopyStorage = migrate.CopyAll
	case f.copyInc:
		p.CopyStorage = migrate.CopyInc
	case len(f.disks) > 0 || len(f.maps) > 0 || f.syncWrites || f.diskBandwidth != "" || f.disksPort != 0 || f.disksURI != "":
		return usagef("an option for copying disks needs --copy-storage-all, --copy-storage-inc or --copy-storage-after")
	}
	if f.disksPort < 0 || f.disksPort > math.MaxUint16 {
		return usagef("--disks-port %d is no port", f.disksPort)
	}
	if f.diskIdle < 0 || f.diskFull < 0 {
		return usagef("--disk-idle and --disk-full cannot be negative")
	}
	if p.CopyStorage != migrate.CopyNone {
		p.DiskIdle, p.DiskFull = f.diskIdle, f.diskFull
	}
	return f.setDiskMaps(p)
}

// setDiskMaps takes where disks go.
func (f *migrateFlags) setDiskMaps(p *migrate.Params) error {
	for _, s := range f.maps {
		m, err := parseDiskMap(s)
		if err != nil {
			return err
		}
		p.Disks = append(p.Disks, m)
	}
	if err := p.CheckDisks(); err != nil {
		return usagef("--disk: %v", err)
	}
	return nil
}

// parseDiskMap reads TARGET=/PATH[,format=FORMAT]. A comma that no option follows belongs to the path.
func parseDiskMap(s string) (migrate.DiskMap, error) {
	target, rest, ok := strings.Cut(s, "=")
	if !ok || target == "" || rest == "" {
		return migrate.DiskMap{}, usagef("--disk %q is not TARGET=/PATH[,format=qcow2|raw], such as vda=/images/web.qcow2", s)
	}
	m := migrate.DiskMap{Target: target, Path: rest}
	for {
		i := strings.LastIndexByte(m.Path, ',')
		if i < 0 {
			return m, nil
		}
		key, value, ok := strings.Cut(m.Path[i+1:], "=")
		switch {
		case !ok || strings.Contains(key, "/"):
			return m, nil
		case key != "format":
			return m, usagef("--disk %s has no option %q; there is format=qcow2 or raw", target, key)
		case m.Format != "" || value == "":
			return m, usagef("--disk %s wants one format, qcow2 or raw", target)
		}
		m.Path, m.Format = m.Path[:i], value
	}
}

func (f *migrateFlags) setBandwidth(p *migrate.Params) (err error) {
	if p.Bandwidth, err = parseBandwidth("--bandwidth", f.bandwidth); err != nil {
		return err
	}
	if p.BandwidthDisk, err = parseBandwidth("--bandwidth-disk", f.diskBandwidth); err != nil {
		return err
	}
	p.BandwidthPostcopy, err = parseBandwidth("--postcopy-bandwidth", f.postcopyBandwidth)
	return err
}

func (f *migrateFlags) setXML(p *migrate.Params) error {
	for _, x := range []struct {
		file string
		to   *string
	}{{f.xmlFile, &p.DestinationXML}, {f.persistentXMLFile, &p.PersistentXML}} {
		if x.file == "" {
			continue
		}
		b, err := os.ReadFile(x.file)
		if err != nil {
			return usageError{err}
		}
		*x.to = string(b)
	}
	return nil
}

// parseBandwidth reads a rate into bytes per second. A bare number is MiB/s, as virsh has it.
func parseBandwidth(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	units := []struct {
		suffix string
		bytes  float64
	}{
		{"gbit", 1e9 / 8}, {"mbit", 1e6 / 8}, {"kbit", 1e3 / 8},
		{"gib", 1 << 30}, {"mib", 1 << 20}, {"kib", 1 << 10}, {"", 1 << 20},
	}
	low := strings.TrimSuffix(strings.ToLower(s), "/s")
	for _, u := range units {
		num, ok := strings.CutSuffix(low, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(num, 64)
		bytes := v * u.bytes
		if err != nil || !(bytes >= 1) || bytes > math.MaxInt64/2 {
			break
		}
		return int64(bytes), nil
	}
	return 0, usagef("%s %q is no rate; want MiB/s (100) or a unit (500mbit, 1gbit, 100MiB)", flag, s)
}
