package libvirthost

import (
	"errors"
	"testing"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		name string
		p    migrate.Params
		want libvirt.DomainMigrateFlags
	}{
		{"nothing", migrate.Params{}, 0},
		{"persistent", migrate.Params{Persistent: true, UndefineSource: true}, libvirt.MigratePersistDest | libvirt.MigrateUndefineSource},
		{"suspend", migrate.Params{Suspend: true}, libvirt.MigratePaused},
		{"copy all", migrate.Params{CopyStorage: migrate.CopyAll, SynchronousWrites: true}, libvirt.MigrateNonSharedDisk | libvirt.MigrateNonSharedSynchronousWrites},
		{"copy inc", migrate.Params{CopyStorage: migrate.CopyInc, Unsafe: true}, libvirt.MigrateNonSharedInc | libvirt.MigrateUnsafe},
		{"post-copy", migrate.Params{Strategy: migrate.StrategyPostcopy}, libvirt.MigratePostcopy},
		{"hybrid", migrate.Params{Strategy: migrate.StrategyHybrid}, libvirt.MigratePostcopy},
		{"resume", migrate.Params{Resume: true}, libvirt.MigratePostcopy | libvirt.MigratePostcopyResume},
		{"multifd", migrate.Params{Parallel: 4, Compression: []string{"zstd"}, TLS: true}, libvirt.MigrateParallel | libvirt.MigrateCompressed | libvirt.MigrateTLS},
	} {
		if got := flagsOf(c.p); got != c.want|libvirt.MigrateLive {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want|libvirt.MigrateLive)
		}
	}
}

func TestFlagsOfEachSide(t *testing.T) {
	p := migrate.Params{AutoConverge: true}
	if f := sourceFlags(p, true); f&libvirt.MigrateChangeProtection == 0 || f&libvirt.MigrateAutoConverge == 0 || f&libvirt.MigratePaused == 0 {
		t.Errorf("source: %#x", f)
	}
	if f := destFlags(p, true); f&(libvirt.MigrateChangeProtection|libvirt.MigrateAutoConverge|libvirt.MigrateAbortOnError) != 0 || f&libvirt.MigratePaused == 0 {
		t.Errorf("destination: %#x", f)
	}
	if f := destFlags(p, false); f&libvirt.MigratePaused != 0 {
		t.Errorf("destination of a running guest: %#x", f)
	}
}

func TestParams(t *testing.T) {
	p := migrate.Params{
		PersistentXML: "<p/>", ListenAddress: "10.0.0.1", Bandwidth: 5 << 20, BandwidthPostcopy: 1,
		MigrateDisks: []string{"vda", "vdb"}, DisksPort: 49200, DisksURI: "tcp://d", Compression: []string{"zstd"},
		AutoConverge: true, AutoConvergeInitial: 20, AutoConvergeIncrement: 10, Parallel: 4, TLS: true, TLSDestination: "b",
	}
	got := map[string][]any{}
	for _, tp := range paramsOf(p, "new", "<d/>", "tcp://x") {
		got[tp.Field] = append(got[tp.Field], tp.Value.I)
	}
	want := map[string][]any{
		"migrate_uri": {"tcp://x"}, "destination_name": {"new"}, "destination_xml": {"<d/>"}, "persistent_xml": {"<p/>"},
		"listen_address": {"10.0.0.1"}, "bandwidth": {uint64(5)}, "bandwidth.postcopy": {uint64(1)},
		"migrate_disks": {"vda", "vdb"}, "disks_port": {int32(49200)}, "disks_uri": {"tcp://d"}, "compression": {"zstd"},
		"auto_converge.initial": {int32(20)}, "auto_converge.increment": {int32(10)}, "parallel.connections": {int32(4)}, "tls.destination": {"b"},
	}
	for k, v := range want {
		if len(got[k]) != len(v) {
			t.Errorf("%s: %v, want %v", k, got[k], v)
			continue
		}
		for i := range v {
			if got[k][i] != v[i] {
				t.Errorf("%s: %v (%T), want %v (%T)", k, got[k][i], got[k][i], v[i], v[i])
			}
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d parameters, want %d: %v", len(got), len(want), got)
	}
	if n := len(paramsOf(migrate.Params{}, "", "", "")); n != 0 {
		t.Errorf("nothing gave %d parameters", n)
	}
}

// TestBandwidthCapHolds: libvirt counts in MiB/s and takes 0 for no cap at all.
func TestBandwidthCapHolds(t *testing.T) {
	for n, want := range map[int64]uint64{1: 1, 1<<20 - 1: 1, 1 << 20: 1, 2<<20 - 1: 1, 10 << 20: 10} {
		if got := mibps(n); got != want {
			t.Errorf("%d B/s: %d MiB/s, want %d", n, got, want)
		}
	}
}

func TestRefuseWhatLibvirtCannotDo(t *testing.T) {
	err := refuse(migrate.Params{DirtyLimit: true})
	if !errors.Is(err, migrate.ErrNotSupported) || migrate.FixOf(err) == "" {
		t.Errorf("%v, fix %q", err, migrate.FixOf(err))
	}
}
