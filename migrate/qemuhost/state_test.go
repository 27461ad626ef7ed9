package qemuhost

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

func TestStateOf(t *testing.T) {
	for _, c := range []struct {
		run    qmp.RunState
		status qmp.MigrationStatus
		want   migrate.RunState
		job    bool
	}{
		{qmp.StateRunning, "", migrate.RunRunning, false},
		{qmp.StateRunning, qmp.MigrationActive, migrate.RunRunning, true},
		{qmp.StateRunning, qmp.MigrationFailed, migrate.RunRunning, false},
		{qmp.StateRunning, qmp.MigrationCompleted, migrate.RunRunning, false},
		{qmp.StateRunning, qmp.MigrationPostcopyActive, migrate.RunPostcopy, true},
		{qmp.StateRunning, qmp.MigrationPostcopyPaused, migrate.RunPostcopyPaused, true},
		{qmp.StateRunning, qmp.MigrationPostcopyRecover, migrate.RunPostcopyPaused, true},
		{qmp.StateInMigrate, "", migrate.RunIncoming, false},
		{qmp.StateInMigrate, qmp.MigrationActive, migrate.RunIncoming, true},
		{qmp.StateInMigrate, qmp.MigrationFailed, migrate.RunIncoming, false},
		{qmp.StateFinishMigrate, qmp.MigrationPreSwitchover, migrate.RunPaused, true},
		{qmp.StateFinishMigrate, qmp.MigrationDevice, migrate.RunPaused, true},
		{qmp.StateFinishMigrate, qmp.MigrationPostcopyActive, migrate.RunPostcopy, true},
		{qmp.StateFinishMigrate, qmp.MigrationPostcopyPaused, migrate.RunPostcopyPaused, true},
		{qmp.StateFinishMigrate, qmp.MigrationCompleted, migrate.RunMigrated, false},
		{qmp.StatePostMigrate, qmp.MigrationCompleted, migrate.RunMigrated, false},
		{qmp.StatePaused, qmp.MigrationPostcopyActive, migrate.RunPaused, true},
		{qmp.StatePaused, "", migrate.RunPaused, false},
		{qmp.StatePreLaunch, "", migrate.RunPaused, false},
		{qmp.StateIOError, "", migrate.RunPaused, false},
		{qmp.StateShutdown, "", migrate.RunStopped, false},
		{qmp.StateGuestPanicked, "", migrate.RunCrashed, false},
		{qmp.StateInternalError, "", migrate.RunCrashed, false},
		{"something-new", "", migrate.RunPaused, false},
	} {
		if got := stateOf(c.run, c.status); got.Run != c.want || got.Job != c.job || got.Reason == "" {
			t.Errorf("%s, %q: %+v, want %s, job %t", c.run, c.status, got, c.want, c.job)
		}
	}
}

func TestStatsOfLeavesOutWhatQEMUDoes(t *testing.T) {
	s := statsOf(qmp.MigrationInfo{})
	if s.Status != "none" || s.RAMTotal != nil || s.Downtime != nil || s.Throttle != nil || s.Bandwidth != nil {
		t.Errorf("of nothing: %+v", s)
	}
	s = statsOf(qmp.MigrationInfo{Status: "active", TotalTime: new(int64(1500)), CPUThrottlePercentage: new(int64(20)), ErrorDesc: new("x"),
		RAM: &qmp.MigrationRAM{Total: 10, Remaining: 4, Transferred: 6, Duplicate: 1, Normal: 2, PageSize: 4096, DirtySyncCount: 3,
			DirtyPagesRate: 100, Mbps: 8, PostcopyRequests: 9}})
	if s.Elapsed != 1500*time.Millisecond || *s.Throttle != 20 || s.Error != "x" || *s.RAMTotal != 10 || *s.RAMRemaining != 4 || *s.RAMSent != 6 ||
		*s.ZeroPages != 1 || *s.NormalPages != 2 || *s.Round != 3 || *s.DirtyRate != 409600 || *s.Bandwidth != 1_000_000 || *s.Faults != 9 || s.Downtime != nil {
		t.Errorf("%+v", s)
	}
}

func TestTranslateEvents(t *testing.T) {
	at := time.Unix(5, 6000)
	for name, want := range map[string]migrate.GuestEvent{
		`STOP`:                                    {Kind: migrate.EventStop},
		`RESUME`:                                  {Kind: migrate.EventResume},
		`MIGRATION_PASS {"pass": 3}`:              {Kind: migrate.EventRound, Round: 3},
		`MIGRATION {"status": "active"}`:          {Kind: migrate.EventMigration, Detail: "active"},
		`MIGRATION "not an object"`:               {Kind: migrate.EventMigration},
		`SHUTDOWN {"reason": "guest-shutdown"}`:   {Kind: migrate.EventShutdown, Detail: "guest-shutdown"},
		`BLOCK_IO_ERROR {"device": "vda"}`:        {Kind: migrate.EventIOError, Detail: "vda"},
		`BLOCK_IO_ERROR {"node-name": "data"}`:    {Kind: migrate.EventIOError, Detail: "data"},
		`BLOCK_IO_ERROR {"device": "", "x": [1]}`: {Kind: migrate.EventIOError},
	} {
		e := qmp.Event{Timestamp: at, Arrived: at.Add(1)}
		for i := range name {
			if name[i] == ' ' {
				e.Data = json.RawMessage(name[i+1:])
				name = name[:i]
				break
			}
		}
		e.Name = name
		want.At, want.Seen = at, at.Add(1)
		if got := translate(e); got != want {
			t.Errorf("%s %s: %+v, want %+v", name, e.Data, got, want)
		}
	}
}
