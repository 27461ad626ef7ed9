package qemuhost

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

// model is a QEMU that does at once what a real one does in time. It knows the commands that the driver uses, and can be
// told to refuse one of them, or to die at it.
type model struct {
	t    *testing.T
	conn net.Conn
	peer *model // the other end

	mu      sync.Mutex
	run     string
	status  string
	why     string
	caps    map[string]bool
	params  map[string]any
	objects map[string]bool
	nodes   map[string]bool
	jobs    map[string]*modelJob
	nbd     bool
	dead    bool
	trace   []string // the commands that came, in order
	failAt  int      // which of them to refuse, from 1; 0 is none
	dieAt   int      // which of them to die at, from 1; 0 is none
	blocked []string // why the guest cannot be migrated
	stuck   bool     // the switch leads nowhere
	slow    bool     // the copying lasts until it is cancelled
}

type modelJob struct {
	status, ioStatus   string
	len, offset, speed int64
	paused, blocking   bool
	resumed            int
	target             string // on-target-error
}

// newModel is a QEMU with a running guest, or one that waits for it.
func newModel(t *testing.T, incoming bool) *model {
	m := &model{t: t, run: "running", objects: map[string]bool{}, nodes: map[string]bool{}, jobs: map[string]*modelJob{},
		caps: map[string]bool{}, params: map[string]any{"max-bandwidth": 134217728, "max-postcopy-bandwidth": 0,
			"downtime-limit": 300, "tls-creds": "", "tls-hostname": "", "multifd-channels": 2, "multifd-compression": "none",
			"cpu-throttle-initial": 20, "cpu-throttle-increment": 10}}
	if incoming {
		m.run = "inmigrate"
	}
	for _, c := range []string{qmp.CapEvents, qmp.CapReturnPath, qmp.CapPauseBeforeSwitchover, qmp.CapLateBlockActivate, qmp.CapSwitchoverAck,
		qmp.CapPostcopyRAM, qmp.CapPostcopyPreempt, qmp.CapMultifd, qmp.CapXBZRLE, qmp.CapAutoConverge, qmp.CapDirtyLimit, qmp.CapIgnoreShared} {
		m.caps[c] = false
	}
	return m
}

// modelPair is a source and a destination that know each other.
func modelPair(t *testing.T) (src, dst *model) {
	src, dst = newModel(t, false), newModel(t, true)
	src.peer, dst.peer = dst, src
	return src, dst
}

// host connects a driver to the model.
func (m *model) host(ctx context.Context) *Host {
	m.t.Helper()
	m.conn = qmptest.Start(m.t, qmptest.Negotiate("oob"), qmptest.Serve(m.serve))
	c, err := qmp.NewClient(ctx, m.conn)
	if err != nil {
		m.t.Fatal(err)
	}
	h, err := New(ctx, c, Scheme+":///nonexistent/qmp.sock", Options{Poll: time.Millisecond, Stuck: 20 * time.Millisecond, Grace: 5 * time.Second})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = h.Close() })
	m.mu.Lock()
	m.trace = nil // what newHost asks is no step of a migration
	m.mu.Unlock()
	return h
}

// die ends the process: the connection goes, and the peer's migration fails.
func (m *model) die() {
	m.dead, m.run = true, "gone"
	_ = m.conn.Close()
}

// alive tells whether the guest runs here.
func (m *model) runs() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.run == "running" && !m.dead
}

// serve answers one command.
func (m *model) serve(c qmptest.Command) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trace = append(m.trace, c.Name)
	n := len(m.trace)
	switch {
	case n == m.dieAt:
		m.die()
		return nil
	case n == m.failAt:
		return qmptest.Failure{Class: qmp.ClassGeneric, Desc: "refused by the test"}
	}
	var a map[string]any
	if len(c.Args) > 0 {
		if err := json.Unmarshal(c.Args, &a); err != nil {
			m.t.Errorf("%s: %v", c.Name, err)
		}
	}
	for _, part := range []func(string, map[string]any) (any, bool){m.describe, m.settings, m.things, m.disks, m.migration} {
		if v, ok := part(c.Name, a); ok {
			return v
		}
	}
	return qmptest.Failure{Class: qmp.ClassCommandNotFound, Desc: "the model does not know " + c.Name}
}

// obj is a JSON object.
type obj = map[string]any

func (m *model) describe(name string, a obj) (any, bool) {
	switch name {
	case "query-name":
		return obj{"name": "guest"}, true
	case "query-uuid":
		return obj{"UUID": "7C0F0D8A-0000-4000-8000-000000000001"}, true
	case "query-target":
		return obj{"arch": "x86_64"}, true
	case "query-kvm":
		return obj{"enabled": false, "present": true}, true
	case "query-memory-size-summary":
		return obj{"base-memory": 64 << 20, "plugged-memory": 0}, true
	case "query-memdev":
		return []obj{}, true
	case "x-query-ramblock":
		return obj{"human-readable-text": "Block Name PSize Offset Used Total\npc.ram 4 KiB 0x0 0x4000000 0x4000000\n"}, true
	case "query-cpus-fast":
		return []obj{{"cpu-index": 0, "qom-path": "/machine/unattached/device[0]", "thread-id": 1, "target": "x86_64"}}, true
	case "query-block":
		return []obj{{"device": "", "qdev": "/machine/peripheral/vda/virtio-backend", "type": "unknown", "removable": false, "locked": false,
			"inserted": obj{"file": "/x.img", "node-name": "data", "ro": false, "drv": "raw", "backing_file_depth": 0, "encrypted": false,
				"detect_zeroes": "off", "bps": 0, "iops": 0, "image": obj{"filename": "/x.img", "format": "raw", "virtual-size": 1 << 20}}}}, true
	case "qom-get":
		return map[string]string{"type": "pc-q35-10.0-machine", "memory-backend": "/objects/pc.ram"}[fmt.Sprint(a["property"])], true
	case "qom-list":
		switch a["path"] {
		case "/machine/peripheral":
			return []obj{{"name": "vda", "type": "child<virtio-blk-pci>"}}, true
		case "/machine/peripheral-anon":
			return []obj{}, true
		}
		list := []obj{{"name": "type", "type": "string"}}
		for _, id := range slices.Sorted(maps.Keys(m.objects)) {
			list = append(list, obj{"name": id, "type": "child<object>"})
		}
		return list, true
	}
	return nil, false
}

func (m *model) settings(name string, a obj) (any, bool) {
	switch name {
	case "query-migrate-capabilities":
		var list []obj
		for _, c := range slices.Sorted(maps.Keys(m.caps)) {
			list = append(list, obj{"capability": c, "state": m.caps[c]})
		}
		return list, true
	case "query-migrate-parameters":
		return m.params, true
	case "migrate-set-capabilities":
		for _, c := range a["capabilities"].([]any) {
			c := c.(obj)
			m.caps[c["capability"].(string)] = c["state"].(bool)
		}
		return obj{}, true
	case "migrate-set-parameters":
		for k, v := range a {
			if f, ok := v.(float64); ok && f < 1e15 {
				v = int(f)
			}
			m.params[k] = v
		}
		return obj{}, true
	}
	return nil, false
}

// things are objects, exports and the run state.
func (m *model) things(name string, a obj) (any, bool) {
	id := fmt.Sprint(a["id"])
	switch name {
	case "object-add":
		if m.objects[id] {
			return qmptest.Failure{Class: qmp.ClassGeneric, Desc: "duplicate"}, true
		}
		m.objects[id] = true
	case "object-del":
		if !m.objects[id] {
			return qmptest.Failure{Class: qmp.ClassGeneric, Desc: "no such object"}, true
		}
		delete(m.objects, id)
	case "nbd-server-start":
		m.nbd = true
	case "nbd-server-stop":
		m.nbd = false
	case "block-export-add", "yank":
	case "query-migrationthreads":
		return []obj{}, true
	case "query-status":
		return obj{"status": m.run, "running": m.run == "running"}, true
	case "stop":
		if m.run == "running" {
			m.run = "paused"
		}
	case "cont":
		if m.run == "finish-migrate" {
			return qmptest.Failure{Class: qmp.ClassGeneric, Desc: "Migration is not finalized yet"}, true
		}
		m.run = "running"
		return qmptest.Answer{Value: obj{}, After: "RESUME"}, true
	case "quit":
		m.die()
	default:
		return nil, false
	}
	return obj{}, true
}

func (m *model) disks(name string, a obj) (any, bool) {
	switch name {
	case "query-named-block-nodes":
		list := []obj{}
		for _, n := range slices.Sorted(maps.Keys(m.nodes)) {
			list = append(list, obj{"file": "", "node-name": n, "ro": false, "drv": "nbd", "backing_file_depth": 0, "encrypted": false,
				"detect_zeroes": "off", "bps": 0, "iops": 0, "image": obj{"filename": "", "format": "nbd", "virtual-size": 1}})
		}
		return list, true
	case "query-jobs":
		list := []obj{}
		for _, id := range slices.Sorted(maps.Keys(m.jobs)) {
			list = append(list, obj{"id": id, "type": "mirror", "status": m.jobs[id].status, "current-progress": 1, "total-progress": 1})
		}
		return list, true
	case "query-block-jobs":
		list := []obj{}
		for _, id := range slices.Sorted(maps.Keys(m.jobs)) {
			j := m.jobs[id]
			list = append(list, obj{"type": "mirror", "device": id, "len": j.len, "offset": j.offset, "busy": false, "paused": j.paused, "speed": j.speed,
				"io-status": j.ioStatus, "ready": j.status == "ready", "status": j.status, "auto-finalize": true, "auto-dismiss": false, "actively-synced": j.blocking})
		}
		return list, true
	case "block-job-set-speed":
		if j := m.jobs[fmt.Sprint(a["device"])]; j != nil {
			j.speed = int64(a["speed"].(float64))
		}
	case "block-job-change":
		m.jobs[fmt.Sprint(a["id"])].blocking = true
	case "job-resume":
		m.jobs[fmt.Sprint(a["id"])].resumed++
	case "blockdev-add":
		m.nodes[a["node-name"].(string)] = true
	case "blockdev-del":
		delete(m.nodes, a["node-name"].(string))
	case "blockdev-mirror":
		m.jobs[a["job-id"].(string)] = &modelJob{status: "ready", ioStatus: "ok", len: 1, offset: 1, target: fmt.Sprint(a["on-target-error"])}
	case "block-job-cancel":
		j := m.jobs[a["device"].(string)]
		if j == nil {
			return qmptest.Failure{Class: qmp.ClassDeviceNotActive, Desc: "no such job"}, true
		}
		j.status = "concluded"
	case "job-dismiss":
		delete(m.jobs, a["id"].(string))
	default:
		return nil, false
	}
	return obj{}, true
}

func (m *model) migration(name string, a obj) (any, bool) {
	switch name {
	case "query-migrate":
		return m.info(), true
	case "migrate-incoming":
		m.status = "setup"
	case "migrate":
		m.status, m.run = "pre-switchover", "finish-migrate"
		if strings.HasSuffix(fmt.Sprint(a["uri"]), ":1") {
			m.status, m.run, m.why = "failed", "running", "Connection refused"
		}
		if m.slow {
			m.status, m.run = "active", "running"
			return obj{}, true
		}
		return qmptest.Answer{Value: obj{}, Before: "STOP"}, true
	case "migrate_cancel":
		if m.status == "active" {
			m.status = "cancelling" // a while later it is cancelled
		}
		if m.status == "pre-switchover" {
			m.status, m.run = "cancelled", "running"
		}
	case "migrate-start-postcopy", "migrate-pause", "migrate-recover":
	case "migrate-continue":
		if m.status != "pre-switchover" {
			return qmptest.Failure{Class: qmp.ClassGeneric, Desc: "not in that state"}, true
		}
		m.send()
	default:
		return nil, false
	}
	return obj{}, true
}

func (m *model) info() obj {
	o := obj{}
	if m.status != "" {
		o["status"] = m.status
	}
	if m.status == "cancelling" {
		m.status = "cancelled"
	}
	if m.why != "" {
		o["error-desc"] = m.why
	}
	if m.blocked != nil {
		o["blocked-reasons"] = m.blocked
	}
	if m.run == "inmigrate" && m.status == "setup" {
		o["socket-address"] = []obj{{"type": "inet", "host": "127.0.0.1", "port": "4444"}}
	}
	return o
}

// send hands the guest to the peer. If that is dead, the guest runs on here, as QEMU does it.
func (m *model) send() {
	m.peer.mu.Lock()
	defer m.peer.mu.Unlock()
	if m.stuck {
		m.status, m.why = "device", "Channel error"
		return
	}
	if m.peer.dead {
		m.status, m.run, m.why = "failed", "running", "Channel error"
		return
	}
	m.status, m.run = "completed", "postmigrate"
	m.peer.status, m.peer.run = "completed", "paused"
}
