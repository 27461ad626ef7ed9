package qemuhost

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

func version(major, minor int) qmp.Version {
	var v qmp.Version
	v.QEMU.Major, v.QEMU.Minor = major, minor
	return v
}

func TestValidate(t *testing.T) {
	pre, post := migrate.StrategyPrecopy, migrate.StrategyPostcopy
	for name, c := range map[string]struct {
		p  migrate.Params
		v  qmp.Version
		ok bool
	}{
		"precopy":                     {migrate.Params{Strategy: pre}, version(10, 0), true},
		"hybrid":                      {migrate.Params{Strategy: migrate.StrategyHybrid, Preempt: true}, version(10, 0), true},
		"auto":                        {migrate.Params{Strategy: migrate.StrategyAuto}, version(10, 0), false},
		"old QEMU":                    {migrate.Params{Strategy: pre}, version(3, 1), false},
		"peer-to-peer":                {migrate.Params{Strategy: pre, PeerToPeer: true}, version(10, 0), false},
		"XML":                         {migrate.Params{Strategy: pre, DestinationXML: "<x/>"}, version(10, 0), false},
		"multifd and post-copy":       {migrate.Params{Strategy: post, Parallel: 2}, version(10, 0), false},
		"multifd and post-copy later": {migrate.Params{Strategy: post, Parallel: 2}, version(10, 1), true},
		"too many channels":           {migrate.Params{Strategy: pre, Parallel: 256}, version(10, 0), false},
		"two throttles":               {migrate.Params{Strategy: pre, AutoConverge: true, DirtyLimit: true}, version(10, 0), false},
		"dirty-limit in an old QEMU":  {migrate.Params{Strategy: pre, DirtyLimit: true}, version(8, 0), false},
		"preempt in pre-copy":         {migrate.Params{Strategy: pre, Preempt: true}, version(10, 0), false},
		"RAM of somebody else":        {migrate.Params{Strategy: pre, SharedRAM: true}, version(10, 0), true},
		"the same in post-copy":       {migrate.Params{Strategy: post, SharedRAM: true}, version(10, 0), false},
		"zstd":                        {migrate.Params{Strategy: pre, Parallel: 2, Compression: []string{"zstd"}}, version(10, 0), true},
		"zstd alone":                  {migrate.Params{Strategy: pre, Compression: []string{"zstd"}}, version(10, 0), false},
		"two of multifd":              {migrate.Params{Strategy: pre, Parallel: 2, Compression: []string{"zstd", "zlib"}}, version(10, 0), false},
		"xbzrle":                      {migrate.Params{Strategy: pre, Compression: []string{"xbzrle"}}, version(10, 0), true},
		"xbzrle in post-copy":         {migrate.Params{Strategy: post, Compression: []string{"xbzrle"}}, version(10, 0), false},
		"xbzrle with multifd":         {migrate.Params{Strategy: pre, Parallel: 2, Compression: []string{"xbzrle"}}, version(10, 0), false},
		"unknown compression":         {migrate.Params{Strategy: pre, Parallel: 2, Compression: []string{"mt"}}, version(10, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			err := validate(c.p, c.v)
			if c.ok {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantIs(t, err, migrate.ErrNotSupported)
			wantMentions(t, err)
		})
	}
}

// number gives a parameter as JSON.
func number(t *testing.T, s settings, name string) string {
	t.Helper()
	v, ok := s.Params[name]
	if !ok {
		return "absent"
	}
	return string(v)
}

func TestSourceSettings(t *testing.T) {
	s := sourceSettings(migrate.Params{Strategy: migrate.StrategyPrecopy}, true, false, "")
	for name, want := range map[string]string{"max-bandwidth": "9223372036854775807", "max-postcopy-bandwidth": "0", "downtime-limit": "300",
		"tls-creds": `""`, "multifd-channels": "absent", "cpu-throttle-initial": "absent"} {
		if got := number(t, s, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]bool{qmp.CapEvents: true, qmp.CapReturnPath: true, qmp.CapPauseBeforeSwitchover: true,
		qmp.CapSwitchoverAck: true, qmp.CapPostcopyRAM: false, qmp.CapMultifd: false, qmp.CapIgnoreShared: false} {
		if got, ok := s.Caps[name]; !ok || got != want {
			t.Errorf("%s is %t (set: %t), want %t", name, got, ok, want)
		}
	}
	s = sourceSettings(migrate.Params{Strategy: migrate.StrategyPrecopy, Bandwidth: 5, MaxDowntime: 40 * time.Microsecond, Parallel: 3,
		Compression: []string{"zstd"}, AutoConverge: true, AutoConvergeInitial: 30, AutoConvergeIncrement: 5}, false, true, "b.example")
	for name, want := range map[string]string{"max-bandwidth": "5", "downtime-limit": "1", "multifd-channels": "3", "multifd-compression": `"zstd"`,
		"cpu-throttle-initial": "30", "cpu-throttle-increment": "5", "tls-creds": `"vmmigrate-tls"`, "tls-hostname": `"b.example"`} {
		if got := number(t, s, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestOnlyKeepsWhatIsChanged(t *testing.T) {
	found := settings{Caps: qmp.Capabilities{"a": true, "b": false}, Params: map[string]json.RawMessage{"p": json.RawMessage("1"), "q": json.RawMessage("2")}}
	want := settings{Caps: qmp.Capabilities{"b": true, "c": true}, Params: map[string]json.RawMessage{"q": json.RawMessage("9")}}
	got := found.only(want)
	if d := cmp.Diff(settings{Caps: qmp.Capabilities{"b": false}, Params: map[string]json.RawMessage{"q": json.RawMessage("2")}}, got); d != "" {
		t.Error(d)
	}
}
