package libvirthost

import (
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

const miB = 1 << 20

// mibps turns bytes per second into libvirt's unit. A cap is rounded down so that it holds, but never to 0, which
// would be no cap at all; so 1 MiB/s is the least that libvirt can be asked for.
func mibps(n int64) uint64 { return max(1, uint64(n)/miB) }

// flagsOf are the flags that the user asked for, before each phase adds and takes its own.
func flagsOf(p migrate.Params) libvirt.DomainMigrateFlags {
	f := libvirt.MigrateLive
	set := func(on bool, bit libvirt.DomainMigrateFlags) {
		if on {
			f |= bit
		}
	}
	set(p.Persistent, libvirt.MigratePersistDest)
	set(p.UndefineSource, libvirt.MigrateUndefineSource)
	set(p.Suspend, libvirt.MigratePaused)
	set(p.CopyStorage == migrate.CopyAll, libvirt.MigrateNonSharedDisk)
	set(p.CopyStorage == migrate.CopyInc, libvirt.MigrateNonSharedInc)
	set(p.SynchronousWrites, libvirt.MigrateNonSharedSynchronousWrites)
	set(p.Unsafe, libvirt.MigrateUnsafe)
	set(len(p.Compression) > 0, libvirt.MigrateCompressed)
	set(p.AutoConverge, libvirt.MigrateAutoConverge)
	set(p.Strategy.Postcopy() || p.Resume, libvirt.MigratePostcopy)
	set(p.TLS, libvirt.MigrateTLS)
	set(p.Parallel > 0, libvirt.MigrateParallel)
	set(p.Resume, libvirt.MigratePostcopyResume)
	return f
}

// sourceFlags go to Begin, Perform and Confirm. CHANGE_PROTECTION forbids others to change the domain meanwhile, and
// is what makes libvirt hold a job from Begin to Confirm.
func sourceFlags(p migrate.Params, paused bool) libvirt.DomainMigrateFlags {
	f := flagsOf(p) | libvirt.MigrateChangeProtection
	if paused {
		f |= libvirt.MigratePaused
	}
	return f
}

// destFlags go to Prepare and Finish, without what concerns the source alone.
func destFlags(p migrate.Params, paused bool) libvirt.DomainMigrateFlags {
	f := flagsOf(p) &^ (libvirt.MigrateAbortOnError | libvirt.MigrateAutoConverge)
	if paused {
		f |= libvirt.MigratePaused
	}
	return f
}

// wishes builds libvirt's typed parameters. Empty values are left out.
type wishes []libvirt.TypedParam

func (w *wishes) string(name, v string) {
	if v != "" {
		*w = append(*w, libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueString(v)})
	}
}

func (w *wishes) int(name string, v int) {
	if v != 0 {
		*w = append(*w, libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueInt(int32(v))})
	}
}

func (w *wishes) rate(name string, bytes int64) {
	if bytes > 0 {
		*w = append(*w, libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueUllong(mibps(bytes))})
	}
}

// paramsOf are the typed parameters of a migration. name, xml and uri are what the phase at hand says of the
// destination's domain and of where RAM goes; empty ones are left out.
func paramsOf(p migrate.Params, name, xml, uri string) []libvirt.TypedParam {
	var w wishes
	w.string(libvirt.MigrateParamURI, uri)
	w.string(libvirt.MigrateParamDestName, name)
	w.string(libvirt.MigrateParamDestXML, xml)
	w.string(libvirt.MigrateParamPersistXML, p.PersistentXML)
	w.string(libvirt.MigrateParamListenAddress, p.ListenAddress)
	w.rate(libvirt.MigrateParamBandwidth, p.Bandwidth)
	w.rate(libvirt.MigrateParamBandwidthPostcopy, p.BandwidthPostcopy)
	for _, d := range p.MigrateDisks {
		w.string(libvirt.MigrateParamMigrateDisks, d)
	}
	w.int(libvirt.MigrateParamDisksPort, p.DisksPort)
	w.string(libvirt.MigrateParamDisksURI, p.DisksURI)
	for _, c := range p.Compression {
		w.string(libvirt.MigrateParamCompression, c)
	}
	if p.AutoConverge {
		w.int(libvirt.MigrateParamAutoConvergeInitial, p.AutoConvergeInitial)
		w.int(libvirt.MigrateParamAutoConvergeIncrement, p.AutoConvergeIncrement)
	}
	w.int(libvirt.MigrateParamParallelConnections, p.Parallel)
	if p.TLS {
		w.string(libvirt.MigrateParamTLSDestination, p.TLSDestination)
	}
	return w
}

// destName is the guest's name at the destination.
func destName(o migrate.Offer, p migrate.Params) string {
	if p.DestinationName != "" {
		return p.DestinationName
	}
	return o.Name
}

// refuse finds what libvirt cannot do of what the user asked for; it would be dropped in silence otherwise.
func refuse(p migrate.Params) error {
	if p.DirtyLimit {
		return &migrate.OpError{Op: "begin the migration", Side: migrate.SideSource,
			Err: fmt.Errorf("the dirty limit through libvirt: %w", migrate.ErrNotSupported),
			Fix: "use auto-converge, or connect to QEMU itself with qemu+qmp://"}
	}
	return nil
}
