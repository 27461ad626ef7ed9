package libvirthost

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	goqemu "github.com/digitalocean/go-qemu/qmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// event is one decoded event and the domain it is about. A zero kind means that nobody needs it.
type event struct {
	dom ref
	migrate.GuestEvent
	// qemu is the event as QEMU sent it; nil if it is libvirt's.
	qemu *goqemu.Event
}

// decodeEvent reads the events that this package subscribes to. ok is false for a packet that is none of them; a
// malformed one is consumed and gives an error. With coarse, libvirt's word stands for a pause and a resume.
func decodeEvent(h header, payload []byte, seen time.Time, coarse bool) (ev event, ok bool, err error) {
	if h.typ != typeMessage {
		return event{}, false, nil
	}
	r := &reader{b: payload}
	switch {
	case h.prog == progQEMU && h.proc == procMonitorEvent:
		ev, err = monitorEvent(r)
	case h.prog == progRemote && h.proc == procLifecycle:
		ev, err = lifecycleEvent(r, coarse)
	case h.prog == progRemote && h.proc == procIteration:
		ev, err = iterationEvent(r)
	case h.prog == progRemote && h.proc == procIOErrorReason:
		ev, err = ioErrorEvent(r)
	default:
		return event{}, false, nil
	}
	ev.Seen = seen
	if err == nil {
		err = r.err
	}
	if err != nil {
		return event{}, true, fmt.Errorf("event %#x/%d: %w", h.prog, h.proc, err)
	}
	return ev, true, nil
}

// monitorEvent is QEMU's own event with QEMU's time stamp.
func monitorEvent(r *reader) (event, error) {
	r.int32() // callback
	ev := event{dom: r.domain()}
	name := r.string()
	sec, usec := r.int64(), r.uint32()
	details := r.optString()
	if r.err != nil {
		return ev, r.err
	}
	var d struct {
		Status string `json:"status"`
		Pass   int    `json:"pass"`
	}
	ev.qemu = &goqemu.Event{Event: name}
	ev.qemu.Timestamp.Seconds, ev.qemu.Timestamp.Microseconds = sec, int64(usec)
	if details != "" {
		err := json.Unmarshal([]byte(details), &ev.qemu.Data)
		if err == nil && strings.HasPrefix(name, "MIGRATION") {
			err = json.Unmarshal([]byte(details), &d)
		}
		if err != nil {
			return event{dom: ev.dom}, fmt.Errorf("details of %s: %w", name, err)
		}
	}
	if sec > 0 {
		ev.At = time.Unix(sec, int64(usec)*1000)
	}
	switch name {
	case "STOP":
		ev.Kind = migrate.EventStop
	case "RESUME":
		ev.Kind = migrate.EventResume
	case "MIGRATION":
		ev.Kind, ev.Detail = migrate.EventMigration, d.Status
	case "MIGRATION_PASS":
		ev.Kind, ev.Round = migrate.EventRound, d.Pass
	}
	return ev, nil
}

// lifecycleEvent tells that a guest's process is gone. Its pauses and resumes are left out unless coarse is set: QEMU's
// own events tell them with a time stamp.
func lifecycleEvent(r *reader, coarse bool) (event, error) {
	r.int32()
	ev := event{dom: r.domain()}
	what, detail := libvirt.DomainEventType(r.int32()), r.int32()
	switch {
	case what == libvirt.DomainEventStopped:
		ev.Kind, ev.Detail = migrate.EventShutdown, stoppedWord(libvirt.DomainEventStoppedDetailType(detail))
	case what == libvirt.DomainEventSuspended && coarse:
		ev.Kind = migrate.EventStop
	case what == libvirt.DomainEventResumed && coarse:
		ev.Kind = migrate.EventResume
	}
	return ev, r.err
}

func stoppedWord(d libvirt.DomainEventStoppedDetailType) string {
	words := []string{"shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot", "recreated"}
	if d >= 0 && int(d) < len(words) {
		return words[d]
	}
	return fmt.Sprintf("stopped(%d)", d)
}

// iterationEvent is libvirt's own count of rounds, used where QEMU's events cannot be had.
func iterationEvent(r *reader) (event, error) {
	r.int32()
	ev := event{dom: r.domain()}
	ev.Kind, ev.Round = migrate.EventRound, int(r.int32())
	return ev, r.err
}

func ioErrorEvent(r *reader) (event, error) {
	r.int32()
	ev := event{dom: r.domain()}
	path, alias := r.string(), r.string()
	r.int32() // action
	ev.Kind, ev.Detail = migrate.EventIOError, alias+" "+path+": "+r.string()
	return ev, r.err
}
