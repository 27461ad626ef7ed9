package libvirthost

import (
	"encoding/binary"
	"log/slog"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func domainPayload(name string) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1) // callback
	b = append(b, xdrString(name)...)
	b = append(b, make([]byte, 15)...)
	b = append(b, 7)
	return binary.BigEndian.AppendUint32(b, 4) // id
}

func monitorPayload(name, what string, sec uint64, usec uint32, details string) []byte {
	b := append(domainPayload(name), xdrString(what)...)
	b = binary.BigEndian.AppendUint64(b, sec)
	b = binary.BigEndian.AppendUint32(b, usec)
	if details == "" {
		return binary.BigEndian.AppendUint32(b, 0)
	}
	return append(binary.BigEndian.AppendUint32(b, 1), xdrString(details)...)
}

func lifecyclePayload(name string, what, detail uint32) []byte {
	b := binary.BigEndian.AppendUint32(domainPayload(name), what)
	return binary.BigEndian.AppendUint32(b, detail)
}

func TestDecodeEvent(t *testing.T) {
	at := time.Unix(1700000000, 123456000)
	mon := header{prog: progQEMU, proc: procMonitorEvent, typ: typeMessage}
	life := header{prog: progRemote, proc: procLifecycle, typ: typeMessage}
	for _, c := range []struct {
		name    string
		h       header
		payload []byte
		coarse  bool
		want    migrate.GuestEvent
	}{
		{"stop", mon, monitorPayload("g", "STOP", 1700000000, 123456, ""), false, migrate.GuestEvent{Kind: migrate.EventStop, At: at}},
		{"resume", mon, monitorPayload("g", "RESUME", 1700000000, 123456, "{}"), false, migrate.GuestEvent{Kind: migrate.EventResume, At: at}},
		{"pass", mon, monitorPayload("g", "MIGRATION_PASS", 1700000000, 123456, `{"pass": 3}`), false, migrate.GuestEvent{Kind: migrate.EventRound, At: at, Round: 3}},
		{"status", mon, monitorPayload("g", "MIGRATION", 0, 0, `{"status": "postcopy-active"}`), false, migrate.GuestEvent{Kind: migrate.EventMigration, Detail: "postcopy-active"}},
		{"gone", life, lifecyclePayload("g", 5, 2), false, migrate.GuestEvent{Kind: migrate.EventShutdown, Detail: "crashed"}},
		{"suspended is QEMU's to tell", life, lifecyclePayload("g", 3, 1), false, migrate.GuestEvent{}},
		{"suspended, coarse", life, lifecyclePayload("g", 3, 1), true, migrate.GuestEvent{Kind: migrate.EventStop}},
		{"resumed, coarse", life, lifecyclePayload("g", 4, 1), true, migrate.GuestEvent{Kind: migrate.EventResume}},
		{"round", header{prog: progRemote, proc: procIteration, typ: typeMessage}, binary.BigEndian.AppendUint32(domainPayload("g"), 2), true, migrate.GuestEvent{Kind: migrate.EventRound, Round: 2}},
	} {
		ev, ok, err := decodeEvent(c.h, c.payload, time.Time{}, c.coarse)
		if err != nil || !ok || ev.GuestEvent != c.want {
			t.Errorf("%s: %+v, %v, %v; want %+v", c.name, ev.GuestEvent, ok, err, c.want)
		}
		if ev.dom.name != "g" || ev.dom.uuid[15] != 7 {
			t.Errorf("%s: domain %+v", c.name, ev.dom)
		}
		if _, ok, err := decodeEvent(c.h, c.payload[:len(c.payload)-2], time.Time{}, c.coarse); err == nil || !ok {
			t.Errorf("%s, cut short: consumed %v, %v", c.name, ok, err)
		}
	}
	if _, ok, _ := decodeEvent(header{prog: progRemote, proc: procLifecycle, typ: typeReply}, nil, time.Time{}, false); ok {
		t.Error("a reply was taken for an event")
	}
	if _, _, err := decodeEvent(mon, monitorPayload("g", "MIGRATION", 0, 0, "{"), time.Time{}, false); err == nil {
		t.Error("broken details were accepted")
	}
}

// TestHubDropsForSlowReaders: the reader of the connection is never held up, and others still get their events.
func TestHubDropsForSlowReaders(t *testing.T) {
	b := newHub(slog.New(slog.DiscardHandler))
	slow, byID, other := b.add("g"), b.add("00000000-0000-0000-0000-000000000007"), b.add("h")
	for range watchDepth + 10 {
		b.take(header{prog: progQEMU, proc: procMonitorEvent, typ: typeMessage}, monitorPayload("g", "STOP", 1, 0, ""))
		<-byID.ch
	}
	if len(slow.ch) != watchDepth || slow.lost != 10 || len(other.ch) != 0 {
		t.Errorf("slow has %d and lost %d, the other domain's has %d", len(slow.ch), slow.lost, len(other.ch))
	}
	b.remove(slow)
	b.take(header{prog: progQEMU, proc: procMonitorEvent, typ: typeMessage}, monitorPayload("g", "STOP", 1, 0, ""))
	if len(byID.ch) != 1 {
		t.Error("an event was lost after another subscriber left")
	}
}
