package libvirthost

import (
	"errors"
	"testing"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// stateCases is the table of the package comment. ok names the repairs that are allowed: r ResumeGuest, l Release,
// d Discard.
var stateCases = []struct {
	name string
	s    seen
	want migrate.RunState
	ok   string
}{
	{"running", seen{libvirt.DomainRunning, 1, jobNone}, migrate.RunRunning, "r"},
	{"running, copying", seen{libvirt.DomainRunning, 1, jobOther}, migrate.RunRunning, "r"},
	{"landed", seen{libvirt.DomainRunning, int32(libvirt.DomainRunningMigrated), jobNone}, migrate.RunRunning, "r"},
	{"destination in post-copy", seen{libvirt.DomainRunning, int32(libvirt.DomainRunningPostcopy), jobIncoming}, migrate.RunPostcopy, ""},
	{"destination, link broken", seen{libvirt.DomainRunning, int32(libvirt.DomainRunningPostcopyFailed), jobIncoming}, migrate.RunPostcopyPaused, ""},
	{"paused by its user", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedUser), jobNone}, migrate.RunPaused, "r"},
	{"paused by its user, copying", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedUser), jobOther}, migrate.RunPaused, ""},
	{"prepared", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedMigration), jobIncoming}, migrate.RunIncoming, "d"},
	{"being prepared", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedStartingUp), jobIncoming}, migrate.RunIncoming, "d"},
	{"performed", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedMigration), jobOther}, migrate.RunMigrated, ""},
	{"performed, client gone", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedMigration), jobNone}, migrate.RunMigrated, "rl"},
	{"performed, does not answer", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedMigration), jobUnknown}, migrate.RunMigrated, ""},
	{"source in post-copy", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedPostcopy), jobOther}, migrate.RunPostcopy, ""},
	{"source, link broken or client gone", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedPostcopyFailed), jobOther}, migrate.RunPostcopyPaused, "l"},
	{"shut off", seen{libvirt.DomainShutoff, int32(libvirt.DomainShutoffMigrated), jobNone}, migrate.RunStopped, "ld"},
	{"crashed", seen{libvirt.DomainCrashed, 1, jobNone}, migrate.RunCrashed, ""},
	{"panicked", seen{libvirt.DomainPaused, int32(libvirt.DomainPausedCrashed), jobNone}, migrate.RunCrashed, ""},
	{"shutting down", seen{libvirt.DomainShutdown, 1, jobNone}, migrate.RunRunning, "r"},
	{"asleep", seen{libvirt.DomainPmsuspended, 0, jobNone}, migrate.RunPaused, "r"},
}

func TestStateTable(t *testing.T) {
	for _, c := range stateCases {
		g, err := c.s.guest()
		if err != nil || g.Run != c.want || g.Job != (c.s.job != jobNone) || g.Reason == "" {
			t.Errorf("%s: %+v, %v; want %s", c.name, g, err, c.want)
		}
		got := ""
		for _, r := range []struct {
			letter string
			err    error
		}{{"r", mayResume(c.s, 0)}, {"l", mayRelease(c.s, 0)}, {"d", mayDiscard(c.s)}} {
			if r.err == nil {
				got += r.letter
			}
		}
		if got != c.ok {
			t.Errorf("%s: repairs allowed are %q, want %q", c.name, got, c.ok)
		}
	}
	if _, err := (seen{state: libvirt.DomainNostate}).guest(); err == nil {
		t.Error("no state is taken for one")
	}
}

// TestRepairOfOwnJob: the job of a migration that this very connection drives does not stand in the way.
func TestRepairOfOwnJob(t *testing.T) {
	s := seen{libvirt.DomainPaused, int32(libvirt.DomainPausedMigration), jobOther}
	if err := mayResume(s, stagePerformed); err != nil {
		t.Error(err)
	}
	if err := mayRelease(s, stagePerformed); err != nil {
		t.Error(err)
	}
	if err := mayRelease(s, stagePerforming); !errors.Is(err, migrate.ErrBusy) {
		t.Error(err)
	}
	if err := mayResume(s, stagePerforming); !errors.Is(err, migrate.ErrBusy) {
		t.Error(err)
	}
}

func TestReasonOutsideOfTheList(t *testing.T) {
	if w := word(pausedWords, 99); w != "reason-99" {
		t.Error(w)
	}
	if w := word(pausedWords, -1); w != "reason--1" {
		t.Error(w)
	}
}

func TestCrashesOnResume(t *testing.T) {
	for v, want := range map[migrate.Version]bool{
		{Major: 9}: false, {Major: 11, Minor: 1, Micro: 9}: false, {Major: 11, Minor: 2}: true,
		{Major: 11, Minor: 3, Micro: 1}: true, {Major: 11, Minor: 4}: false, {Major: 12}: false,
	} {
		if crashesOnResume(v) != want {
			t.Errorf("%+v: %v", v, !want)
		}
	}
}
