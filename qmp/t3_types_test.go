package qmp_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// Every typed query decodes what a real QEMU says.
func TestT3Queries(t *testing.T) {
	c := startQEMU(t, "-name", "web", "-smp", "2", "-device", "pcie-root-port,id=rp",
		"-drive", "driver=raw,file.driver=null-co,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0").client()
	ctx := testContext(t)
	version, err := qmp.QueryVersion(ctx, c)
	check(t, "version", err == nil && version == c.Version() && version.AtLeast(7, 0), version, err)
	name, ok, err := qmp.QueryName(ctx, c)
	check(t, "name", err == nil && ok && name == "web", name, err)
	uuid, err := qmp.QueryUUID(ctx, c)
	check(t, "uuid", err == nil && len(uuid) == 36, uuid, err)
	target, err := qmp.QueryTarget(ctx, c)
	check(t, "target", err == nil && target == "x86_64", target, err)
	kvm, err := qmp.QueryKVM(ctx, c)
	check(t, "kvm", err == nil && !kvm.Enabled, kvm, err)
	cpus, err := qmp.QueryCPUsFast(ctx, c)
	check(t, "cpus", err == nil && len(cpus) == 2 && cpus[1].Index == 1 && cpus[1].ThreadID > 0 && *cpus[1].Props.CoreID == 1, cpus, err)
	size, err := qmp.QueryMemorySizeSummary(ctx, c)
	check(t, "memory size", err == nil && size.Base == 64<<20 && *size.Plugged == 0, size, err)
	pci, err := qmp.QueryPCI(ctx, c)
	check(t, "pci", err == nil && len(pci) == 1 && bridges(pci[0]) == 1, pci, err)
	disks, err := qmp.QueryBlock(ctx, c)
	check(t, "block", err == nil && len(disks) == 1 && disks[0].Inserted.Driver == "raw" && disks[0].Inserted.Image.VirtualSize == 1<<30 &&
		*disks[0].Qdev != "", disks, err)
	exports, err := qmp.QueryBlockExports(ctx, c)
	check(t, "exports", err == nil && len(exports) == 0, exports, err)
	rate, err := qmp.QueryDirtyRate(ctx, c)
	check(t, "dirty rate", err == nil && rate.Status == "unstarted" && rate.Rate == nil, rate, err)
	limits, err := qmp.QueryVCPUDirtyLimit(ctx, c)
	check(t, "dirty limits", err == nil && len(limits) == 0, limits, err)
	text, err := qmp.HumanMonitorCommand(ctx, c, "info name")
	check(t, "human monitor", err == nil && strings.TrimSpace(text) == "web", text, err)
	var machine string
	err = qmp.QOMGet(ctx, c, "/machine", "type", &machine)
	check(t, "qom-get", err == nil && strings.HasPrefix(machine, "pc-q35-"), machine, err)
	props, err := qmp.QOMList(ctx, c, "/machine")
	check(t, "qom-list", err == nil && len(props) > 10, props, err)
	machines, err := qmp.QueryMachines(ctx, c)
	check(t, "machines", err == nil && hasMachine(machines, machine), machines, err)
}

// check reports what a query gave unless ok.
func check(t *testing.T, what string, ok bool, got any, err error) {
	t.Helper()
	if !ok {
		t.Errorf("%s: %+v, %v", what, got, err)
	}
}

// bridges counts the bridges on a bus.
func bridges(bus qmp.PCIBus) (n int) {
	for _, d := range bus.Devices {
		if d.Bridge != nil {
			n++
		}
	}
	return n
}

// hasMachine reports whether a QOM type is among the machine types.
func hasMachine(list []qmp.MachineInfo, qomType string) bool {
	for _, m := range list {
		if m.Name+"-machine" == qomType && m.CPUMax > 1 {
			return true
		}
	}
	return false
}

// go-qemu refuses both answers, for a name that it does not know.
func TestT3UnknownNames(t *testing.T) {
	q := startQEMU(t)
	c := q.client()
	ctx := testContext(t)
	caps, err := qmp.QueryMigrateCapabilities(ctx, c)
	_, known := caps[qmp.CapMultifd]
	check(t, "capabilities", err == nil && known, caps, err)
	path := q.file("d0.raw", 1<<20)
	addDisk(ctx, t, c, "d0", path)
	nodes, err := qmp.QueryNamedBlockNodes(ctx, c)
	check(t, "nodes", err == nil && len(nodes) == 1 && *nodes[0].NodeName == "d0" && nodes[0].File == path &&
		nodes[0].Image.VirtualSize == 1<<20 && nodes[0].Image.FormatSpecific != nil, nodes, err)
	if err := qmp.BlockdevDel(ctx, c, "d0"); err != nil {
		t.Error(err)
	}
}

// addDisk adds a raw file as a node.
func addDisk(ctx context.Context, t *testing.T, x qmp.Executor, node, path string) {
	t.Helper()
	if err := qmp.BlockdevAdd(ctx, x, map[string]string{"driver": "file", "node-name": node, "filename": path}); err != nil {
		t.Fatalf("disk %s: %v", node, err)
	}
}

func TestT3RAMBlocks(t *testing.T) {
	c := startQEMU(t).client()
	ctx := testContext(t)
	blocks, err := qmp.QueryRAMBlocks(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	memdevs, err := qmp.QueryMemdev(ctx, c)
	if err != nil || len(memdevs) != 1 || *memdevs[0].ID != "pc.ram" || *memdevs[0].Share {
		t.Fatalf("memory backends %+v, %v", memdevs, err)
	}
	var found bool
	for _, b := range blocks {
		if b.Name == *memdevs[0].ID {
			found = true
			check(t, "pc.ram", b.Used == memdevs[0].Size && b.Total == b.Used && b.PageSize == 4096 &&
				*b.HostAddress != 0 && !*b.ReadOnly, b, nil)
		}
	}
	check(t, "blocks", found && len(blocks) > 3, blocks, nil)
}

func TestT3Parameters(t *testing.T) {
	c := startQEMU(t).client()
	ctx := testContext(t)
	p, err := qmp.QueryMigrateParameters(ctx, c)
	check(t, "defaults", err == nil && *p.MaxBandwidth == 128<<20 && *p.DowntimeLimit == 300 && *p.MultifdCompression == "none", p, err)
	if err := qmp.SetMigrateParameters(ctx, c, qmp.MigrationParameters{MaxBandwidth: new(uint64(7 << 30)), TLSHostname: new("b")}); err != nil {
		t.Fatal(err)
	}
	p, err = qmp.QueryMigrateParameters(ctx, c)
	check(t, "changed", err == nil && *p.MaxBandwidth == 7<<30 && *p.TLSHostname == "b" && *p.DowntimeLimit == 300, p, err)
	if ok, err := qmp.HasCapability(ctx, c, "no-such-capability"); ok || err != nil {
		t.Errorf("HasCapability: %t, %v", ok, err)
	}
	err = qmp.SetMigrateCapabilities(ctx, c, qmp.Capabilities{qmp.CapEvents: true, qmp.CapPostcopyPreempt: true})
	caps, qerr := qmp.QueryMigrateCapabilities(ctx, c)
	check(t, "all or none", err != nil && qerr == nil && !caps[qmp.CapEvents], caps, err)
	info, err := qmp.QueryMigrate(ctx, c)
	check(t, "no migration", err == nil && info.Status == "" && info.RAM == nil && info.TotalTime == nil, info, err)
	if err := qmp.AnnounceSelf(ctx, c, qmp.AnnounceArgs{Initial: 50, Max: 550, Rounds: 1, Step: 100}); err != nil {
		t.Error(err)
	}
}

func TestT3Objects(t *testing.T) {
	q := startQEMU(t)
	c := q.client()
	ctx := testContext(t)
	key := filepath.Join(q.dir, "keys.psk")
	if err := os.WriteFile(key, []byte("qemu:00112233445566778899aabbccddeeff\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := qmp.ObjectAddTLSPSK(ctx, c, "psk", qmp.TLSCredsPSK{Endpoint: "server", Dir: q.dir}); err != nil {
		t.Error(err)
	}
	if err := qmp.ObjectAddTLSX509(ctx, c, "x", qmp.TLSCredsX509{Endpoint: "server", Dir: q.dir}); err == nil {
		t.Error("credentials without certificates were accepted")
	}
	if err := qmp.ObjectAdd(ctx, c, "memory-backend-ram", "m", map[string]int64{"size": 1 << 20}); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"psk", "m"} {
		if err := qmp.ObjectDel(ctx, c, id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	err := qmp.QOMSet(ctx, c, "/machine", "no-such-property", 1)
	check(t, "qom-set", err != nil && !qmp.IsCommandNotFound(err), nil, err)
}

func TestT3DirtyRate(t *testing.T) {
	c := startQEMU(t, "-m", "128").client()
	ctx := testContext(t)
	if err := qmp.CalcDirtyRate(ctx, c, qmp.CalcDirtyRateArgs{CalcTime: 50, CalcTimeUnit: "millisecond", Mode: qmp.DirtyRateSampling}); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := qmp.QueryDirtyRate(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if r.Status == "measured" {
			check(t, "idle guest", *r.Rate == 0 && *r.Mode == qmp.DirtyRateSampling && r.CalcTime == 0, r, nil)
			return
		}
	}
}

// What the package sends and expects is what this QEMU's schema says.
func TestT3Schema(t *testing.T) {
	c := startQEMU(t).client()
	ctx := testContext(t)
	s, err := qmp.QuerySchema(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range commandCases() {
		checkArguments(t, s, tc.command, json.RawMessage(tc.args), nil)
		if s.AllowsOOB(tc.command) != tc.oob {
			t.Errorf("%s: out of band allowed: %t", tc.command, !tc.oob)
		}
	}
	for _, tc := range queryCases() {
		checkArguments(t, s, tc.command, json.RawMessage(tc.args), nil)
	}
	for _, ok := range []bool{
		s.HasArgument("migrate", "channels", "addr", "transport"), s.HasArgument("migrate-incoming", "exit-on-error"),
		s.HasArgumentValue("blockdev-mirror", "write-blocking", "copy-mode"), s.HasEvent(qmp.EventMigrationPass),
	} {
		if !ok {
			t.Error("something that QEMU 10 has was not found")
		}
	}
	var raw json.RawMessage
	if err := c.Execute(ctx, "query-qmp-schema", nil, &raw); err != nil {
		t.Fatal(err)
	}
	r := newReturnTypes(t, raw)
	for command, v := range map[string]any{
		"query-status": qmp.StatusInfo{}, "query-version": qmp.Version{}, "query-kvm": qmp.KVMInfo{},
		"query-machines": []qmp.MachineInfo{}, "query-cpus-fast": []qmp.CPUInfo{}, "query-pci": []qmp.PCIBus{},
		"query-memdev": []qmp.Memdev{}, "query-memory-size-summary": qmp.MemorySize{},
		"query-block": []qmp.BlockDevice{}, "query-named-block-nodes": []qmp.BlockNode{},
		"query-block-jobs": []qmp.BlockJob{}, "query-jobs": []qmp.Job{}, "query-block-exports": []qmp.BlockExport{},
		"query-migrate": qmp.MigrationInfo{}, "query-migrate-parameters": qmp.MigrationParameters{},
		"query-dirty-rate": qmp.DirtyRate{}, "query-vcpu-dirty-limit": []qmp.VCPUDirtyLimit{},
		"qom-list": []qmp.QOMProperty{}, "add-fd": qmp.AddedFD{}, "query-yank": []qmp.YankInstance{},
		"MIGRATION": qmp.MigrationEvent{}, "MIGRATION_PASS": qmp.MigrationPassEvent{}, "SHUTDOWN": qmp.ShutdownEvent{},
		"RESET": qmp.ResetEvent{}, "GUEST_PANICKED": qmp.GuestPanickedEvent{},
		"BLOCK_JOB_COMPLETED": qmp.BlockJobEvent{}, // READY and CANCELLED are the same without an error
		"BLOCK_JOB_ERROR":     qmp.BlockJobErrorEvent{}, "BLOCK_JOB_PENDING": qmp.BlockJobPendingEvent{},
		"JOB_STATUS_CHANGE": qmp.JobStatusChangeEvent{}, "BLOCK_IO_ERROR": qmp.BlockIOErrorEvent{},
		"BLOCK_EXPORT_DELETED": qmp.BlockExportDeletedEvent{}, "UNPLUG_PRIMARY": qmp.UnplugPrimaryEvent{},
		"DEVICE_DELETED": qmp.DeviceDeletedEvent{}, "BALLOON_CHANGE": qmp.BalloonChangeEvent{},
	} {
		r.check(command, r.resultOf(command), reflect.TypeOf(v), 0)
	}
}

// checkArguments checks that a command takes each member of an object that it is
// sent. What a tag selects among, such as an object's properties, counts too.
func checkArguments(t *testing.T, s *qmp.Schema, command string, raw json.RawMessage, path []string) {
	t.Helper()
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		for _, item := range list {
			checkArguments(t, s, command, item, path)
		}
		return
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return
	}
	if !s.HasCommand(command) {
		t.Errorf("no command %s", command)
	}
	for name, value := range members {
		at := append(append([]string{}, path...), name)
		if !s.HasArgument(command, at...) {
			t.Errorf("%s has no argument %s", command, strings.Join(at, "."))
			continue
		}
		checkArguments(t, s, command, value, at)
	}
}

// returnTypes compares Go types with what a QEMU returns.
type returnTypes struct {
	t        *testing.T
	entities map[string]returnEntity
}

type returnEntity struct {
	Name, Meta   string
	Ret, Arg     string
	Element      string
	Optional     map[string]bool
	MemberTypes  map[string]string
	VariantTypes []string
}

// newReturnTypes reads the parts of a schema that a Schema leaves out.
func newReturnTypes(t *testing.T, raw json.RawMessage) *returnTypes {
	t.Helper()
	var list []struct {
		Name    string `json:"name"`
		Meta    string `json:"meta-type"`
		Ret     string `json:"ret-type"`
		Arg     string `json:"arg-type"`
		Element string `json:"element-type"`
		Members []map[string]json.RawMessage
		Variant []struct{ Type string } `json:"variants"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	r := &returnTypes{t: t, entities: make(map[string]returnEntity)}
	for _, e := range list {
		x := returnEntity{
			Name: e.Name, Meta: e.Meta, Ret: e.Ret, Arg: e.Arg, Element: e.Element,
			Optional: make(map[string]bool), MemberTypes: make(map[string]string),
		}
		for _, m := range e.Members {
			var name, typ string
			_ = json.Unmarshal(m["name"], &name) // alternates have none
			_ = json.Unmarshal(m["type"], &typ)  // enumerations have none
			_, x.Optional[name] = m["default"]
			x.MemberTypes[name] = typ
		}
		for _, v := range e.Variant {
			x.VariantTypes = append(x.VariantTypes, v.Type)
		}
		r.entities[e.Name] = x
	}
	return r
}

// resultOf names the type of what a command returns or an event carries.
func (r *returnTypes) resultOf(name string) string {
	r.t.Helper()
	e, ok := r.entities[name]
	if !ok {
		r.t.Errorf("QEMU has no %s", name)
	}
	if e.Meta == "event" {
		return e.Arg
	}
	return e.Ret
}

// check compares the Go type t with the QEMU type q: each field must exist, and
// one that QEMU may leave out must be able to tell.
func (r *returnTypes) check(at, q string, t reflect.Type, depth int) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice && t != reflect.TypeFor[json.RawMessage]() {
		if t.Kind() == reflect.Slice {
			q = r.entities[q].Element
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || depth > 4 {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		member, optional, ok := r.member(q, name)
		if !ok {
			r.t.Errorf("%s has no member %s", at, name)
			continue
		}
		canTell := f.Type.Kind() == reflect.Pointer || strings.Contains(opts, "omitempty")
		if optional && !canTell {
			r.t.Errorf("%s.%s may be absent, and %s cannot tell", at, name, f.Name)
		}
		r.check(at+"."+name, member, f.Type, depth+1)
	}
}

// member finds a member of an object or of its variants, where it counts as
// optional.
func (r *returnTypes) member(q, name string) (typ string, optional, ok bool) {
	e := r.entities[q]
	if typ, ok := e.MemberTypes[name]; ok {
		return typ, e.Optional[name], true
	}
	for _, v := range e.VariantTypes {
		if typ, _, ok := r.member(v, name); ok {
			return typ, true, true
		}
	}
	return "", false, false
}
