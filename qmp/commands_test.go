package qmp_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

// commandCase is a typed command without a result, and what goes over the wire.
type commandCase struct {
	command string
	args    string
	oob     bool
	run     func(ctx context.Context, x qmp.Executor) error
}

// commandCases are all such commands of the package but those that pass files.
func commandCases() []commandCase {
	type x = qmp.Executor
	type c = context.Context
	return []commandCase{
		{"stop", `{}`, false, qmp.Stop},
		{"cont", `{}`, false, qmp.Cont},
		{"quit", `{}`, false, qmp.Quit},
		{"system_reset", `{}`, false, qmp.SystemReset},
		{"migrate", `{"uri":"tcp:b:1","resume":true}`, false, func(ctx c, x x) error {
			return qmp.Migrate(ctx, x, qmp.MigrateArgs{URI: "tcp:b:1", Resume: true})
		}},
		{"migrate", `{"channels":[{"channel-type":"main","addr":{"transport":"socket","type":"inet","host":"::1","port":"1"}},
			{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"/p"}}]}`, false, func(ctx c, x x) error {
			return qmp.Migrate(ctx, x, qmp.MigrateArgs{Channels: []qmp.MigrationChannel{
				qmp.MainChannel(qmp.SocketTransport(qmp.InetAddress("::1", "1"))),
				qmp.CPRChannel(qmp.SocketTransport(qmp.UnixAddress("/p"))),
			}})
		}},
		{"migrate", `{"channels":[{"channel-type":"main","addr":{"transport":"exec","args":["cat"]}}]}`, false, func(ctx c, x x) error {
			return qmp.Migrate(ctx, x, qmp.MigrateArgs{Channels: []qmp.MigrationChannel{qmp.MainChannel(qmp.ExecTransport("cat"))}})
		}},
		{"migrate-incoming", `{"uri":"tcp:0:0","exit-on-error":false}`, false, func(ctx c, x x) error {
			return qmp.MigrateIncoming(ctx, x, qmp.MigrateIncomingArgs{URI: "tcp:0:0", ExitOnError: new(false)})
		}},
		{"migrate-incoming", `{"channels":[{"channel-type":"main","addr":{"transport":"file","filename":"f","offset":0}}]}`, false, func(ctx c, x x) error {
			return qmp.MigrateIncoming(ctx, x, qmp.MigrateIncomingArgs{Channels: []qmp.MigrationChannel{qmp.MainChannel(qmp.FileTransport("f", 0))}})
		}},
		{"migrate_cancel", `{}`, false, qmp.MigrateCancel},
		{"migrate-continue", `{"state":"pre-switchover"}`, false, func(ctx c, x x) error {
			return qmp.MigrateContinue(ctx, x, qmp.MigrationPreSwitchover)
		}},
		{"migrate-start-postcopy", `{}`, false, qmp.MigrateStartPostcopy},
		{"migrate-pause", `{}`, true, qmp.MigratePause},
		{"migrate-recover", `{"uri":"unix:/p"}`, true, func(ctx c, x x) error { return qmp.MigrateRecover(ctx, x, "unix:/p") }},
		{"migrate-set-capabilities", `{"capabilities":[{"capability":"events","state":true},{"capability":"multifd","state":false}]}`, false,
			func(ctx c, x x) error {
				return qmp.SetMigrateCapabilities(ctx, x, qmp.Capabilities{qmp.CapMultifd: false, qmp.CapEvents: true})
			}},
		{"migrate-set-parameters", `{"max-bandwidth":18446744073709551615,"tls-creds":"","downtime-limit":0,"mode":"normal"}`, false,
			func(ctx c, x x) error {
				return qmp.SetMigrateParameters(ctx, x, qmp.MigrationParameters{
					MaxBandwidth: new(^uint64(0)), TLSCreds: new(""), DowntimeLimit: new(uint64(0)), Mode: new("normal"),
				})
			}},
		{"announce-self", `{"initial":50,"max":550,"rounds":5,"step":100,"interfaces":["n"],"id":"t"}`, false, func(ctx c, x x) error {
			return qmp.AnnounceSelf(ctx, x, qmp.AnnounceArgs{Initial: 50, Max: 550, Rounds: 5, Step: 100, Interfaces: []string{"n"}, ID: "t"})
		}},
		{"yank", `{"instances":[{"type":"migration"},{"type":"block-node","node-name":"n"}]}`, true, func(ctx c, x x) error {
			return qmp.Yank(ctx, x, qmp.YankMigration(), qmp.YankBlockNode("n"))
		}},
		{"qom-set", `{"path":"/p","property":"q","value":3}`, false, func(ctx c, x x) error { return qmp.QOMSet(ctx, x, "/p", "q", 3) }},
		{"object-add", `{"qom-type":"tls-creds-x509","id":"t","endpoint":"server","dir":"/d","verify-peer":true,"passwordid":"s","priority":"p"}`, false,
			func(ctx c, x x) error {
				return qmp.ObjectAddTLSX509(ctx, x, "t", qmp.TLSCredsX509{Endpoint: "server", Dir: "/d", VerifyPeer: new(true), PasswordID: "s", Priority: "p"})
			}},
		{"object-add", `{"qom-type":"tls-creds-psk","id":"t","endpoint":"client","dir":"/d","username":"u"}`, false, func(ctx c, x x) error {
			return qmp.ObjectAddTLSPSK(ctx, x, "t", qmp.TLSCredsPSK{Endpoint: "client", Dir: "/d", Username: "u"})
		}},
		{"object-add", `{"qom-type":"memory-backend-ram","id":"m","size":9223372036854775807}`, false, func(ctx c, x x) error {
			return qmp.ObjectAdd(ctx, x, "memory-backend-ram", "m", map[string]int64{"size": 1<<63 - 1})
		}},
		{"object-add", `{"qom-type":"iothread","id":"i"}`, false, func(ctx c, x x) error { return qmp.ObjectAdd(ctx, x, "iothread", "i", nil) }},
		{"object-del", `{"id":"i"}`, false, func(ctx c, x x) error { return qmp.ObjectDel(ctx, x, "i") }},
		{"closefd", `{"fdname":"f"}`, false, func(ctx c, x x) error { return qmp.CloseFD(ctx, x, "f") }},
		{"remove-fd", `{"fdset-id":1,"fd":2}`, false, func(ctx c, x x) error { return qmp.RemoveFD(ctx, x, 1, new(int64(2))) }},
		{"blockdev-add", `{"driver":"nbd","node-name":"n","server":{"type":"inet","host":"h","port":"1"},"export":"e","tls-creds":"t",
			"tls-hostname":"hn","reconnect-delay":0,"open-timeout":3,"read-only":true,"discard":"unmap"}`, false, func(ctx c, x x) error {
			return qmp.BlockdevAdd(ctx, x, qmp.NBDNode{
				NodeName: "n", Server: qmp.InetAddress("h", "1"), Export: "e", TLSCreds: "t",
				TLSHostname: "hn", ReconnectDelay: new(uint32(0)), OpenTimeout: new(uint32(3)), ReadOnly: true, Unmap: true,
			})
		}},
		{"blockdev-del", `{"node-name":"n"}`, false, func(ctx c, x x) error { return qmp.BlockdevDel(ctx, x, "n") }},
		{"blockdev-mirror", `{"job-id":"j","device":"d","target":"t","sync":"full","speed":0,"granularity":65536,"buf-size":1048576,
			"on-source-error":"report","on-target-error":"stop","filter-node-name":"f","copy-mode":"write-blocking",
			"auto-finalize":true,"auto-dismiss":false}`, false, func(ctx c, x x) error {
			return qmp.BlockdevMirror(ctx, x, qmp.MirrorArgs{
				JobID: "j", Device: "d", Target: "t", Sync: qmp.SyncFull, Speed: new(int64(0)),
				Granularity: new(uint32(65536)), BufSize: new(int64(1 << 20)), OnSourceError: "report", OnTargetError: "stop",
				FilterNodeName: "f", CopyMode: qmp.CopyWriteBlocking, AutoFinalize: new(true), AutoDismiss: new(false),
			})
		}},
		{"block-job-cancel", `{"device":"j"}`, false, func(ctx c, x x) error { return qmp.BlockJobCancel(ctx, x, "j", false) }},
		{"block-job-cancel", `{"device":"j","force":true}`, false, func(ctx c, x x) error { return qmp.BlockJobCancel(ctx, x, "j", true) }},
		{"block-job-set-speed", `{"device":"j","speed":5}`, false, func(ctx c, x x) error { return qmp.BlockJobSetSpeed(ctx, x, "j", 5) }},
		{"block-job-change", `{"id":"j","type":"mirror","copy-mode":"write-blocking"}`, false, func(ctx c, x x) error {
			return qmp.BlockJobChange(ctx, x, "j", qmp.CopyWriteBlocking)
		}},
		{"job-resume", `{"id":"j"}`, false, func(ctx c, x x) error { return qmp.JobResume(ctx, x, "j") }},
		{"job-dismiss", `{"id":"j"}`, false, func(ctx c, x x) error { return qmp.JobDismiss(ctx, x, "j") }},
		{"nbd-server-start", `{"addr":{"type":"inet","data":{"host":"h","port":"1"}},"tls-creds":"t","tls-authz":"a","max-connections":0,
			"handshake-max-seconds":10}`, false, func(ctx c, x x) error {
			return qmp.NBDServerStart(ctx, x, qmp.NBDServerArgs{
				Addr: qmp.InetAddress("h", "1"), TLSCreds: "t", TLSAuthz: "a",
				MaxConnections: new(uint32(0)), HandshakeMaxSeconds: new(uint32(10)),
			})
		}},
		{"nbd-server-start", `{"addr":{"type":"unix","data":{"path":"/p"}}}`, false, func(ctx c, x x) error {
			return qmp.NBDServerStart(ctx, x, qmp.NBDServerArgs{Addr: qmp.UnixAddress("/p")})
		}},
		{"nbd-server-stop", `{}`, false, qmp.NBDServerStop},
		{"block-export-add", `{"type":"nbd","id":"e","node-name":"n","name":"disk","description":"d","writable":true,"allow-inactive":true,
			"allocation-depth":true,"bitmaps":["b"],"iothread":"i"}`, false, func(ctx c, x x) error {
			return qmp.BlockExportAdd(ctx, x, qmp.NBDExport{
				ID: "e", NodeName: "n", Name: "disk", Description: "d", Writable: true,
				AllowInactive: new(true), AllocationDepth: new(true), Bitmaps: []string{"b"}, IOThread: "i",
			})
		}},
		{"block-export-del", `{"id":"e","mode":"hard"}`, false, func(ctx c, x x) error { return qmp.BlockExportDel(ctx, x, "e", true) }},
		{"block-export-del", `{"id":"e","mode":"safe"}`, false, func(ctx c, x x) error { return qmp.BlockExportDel(ctx, x, "e", false) }},
		{"calc-dirty-rate", `{"calc-time":500,"calc-time-unit":"millisecond","sample-pages":512,"mode":"page-sampling"}`, false, func(ctx c, x x) error {
			return qmp.CalcDirtyRate(ctx, x, qmp.CalcDirtyRateArgs{
				CalcTime: 500, CalcTimeUnit: "millisecond", SamplePages: new(int64(512)), Mode: qmp.DirtyRateSampling,
			})
		}},
		{"set-vcpu-dirty-limit", `{"cpu-index":0,"dirty-rate":7}`, false, func(ctx c, x x) error {
			return qmp.SetVCPUDirtyLimit(ctx, x, new(int64(0)), 7)
		}},
		{"cancel-vcpu-dirty-limit", `{}`, false, func(ctx c, x x) error { return qmp.CancelVCPUDirtyLimit(ctx, x, nil) }},
	}
}

func TestCommands(t *testing.T) {
	for _, tc := range commandCases() {
		t.Run(tc.command, func(t *testing.T) {
			c := script(t, qmptest.Expect(tc.command).Args(json.RawMessage(tc.args)).OOB(tc.oob).Return(nil),
				qmptest.Expect(tc.command).Fail("GenericError", "refused"))
			ctx := testContext(t)
			if err := tc.run(ctx, c); err != nil {
				t.Error(err)
			}
			if err := tc.run(ctx, c); err == nil || c.Err() != nil {
				t.Errorf("the refusal gave %v, the client %v", err, c.Err())
			}
		})
	}
}

// queryCase is a typed command with a result.
type queryCase struct {
	command string
	args    string
	reply   string
	want    any
	run     func(ctx context.Context, x qmp.Executor) (any, error)
}

// asAny drops the type of a query's result.
func asAny[T any](fn func(context.Context, qmp.Executor) (T, error)) func(context.Context, qmp.Executor) (any, error) {
	return func(ctx context.Context, x qmp.Executor) (any, error) { return fn(ctx, x) }
}

func queryCases() []queryCase {
	name := func(ctx context.Context, x qmp.Executor) (any, error) {
		n, ok, err := qmp.QueryName(ctx, x)
		return map[string]bool{n: ok}, err
	}
	return []queryCase{
		{"query-status", `{}`, `{"status":"from-the-future","running":true}`,
			qmp.StatusInfo{Status: "from-the-future", Running: true}, asAny(qmp.QueryStatus)},
		{"query-name", `{}`, `{}`, map[string]bool{"": false}, name},
		{"query-name", `{}`, `{"name":""}`, map[string]bool{"": true}, name},
		{"query-uuid", `{}`, `{"UUID":"u"}`, "u", asAny(qmp.QueryUUID)},
		{"query-target", `{}`, `{"arch":"x86_64"}`, "x86_64", asAny(qmp.QueryTarget)},
		{"query-kvm", `{}`, `{"enabled":false,"present":true}`, qmp.KVMInfo{Present: true}, asAny(qmp.QueryKVM)},
		{"query-migrate-capabilities", `{}`, `[{"capability":"events","state":true},{"capability":"new-one","state":false}]`,
			qmp.Capabilities{"events": true, "new-one": false}, asAny(qmp.QueryMigrateCapabilities)},
		{"query-migrate-parameters", `{}`, `{"max-bandwidth":1,"multifd-compression":"unheard-of","tls-creds":""}`,
			qmp.MigrationParameters{MaxBandwidth: new(uint64(1)), MultifdCompression: new("unheard-of"), TLSCreds: new("")},
			asAny(qmp.QueryMigrateParameters)},
		{"query-migrate", `{}`, `{}`, qmp.MigrationInfo{}, asAny(qmp.QueryMigrate)},
		{"query-migrate", `{}`, `{"status":"active","total-time":0,"socket-address":[{"type":"inet","host":"::","port":"4"}],
			"postcopy-vcpu-blocktime":[1,2],"error-desc":"e","blocked-reasons":["r"],"cpu-throttle-percentage":20}`,
			qmp.MigrationInfo{
				Status: "active", TotalTime: new(int64(0)), SocketAddress: []qmp.SocketAddress{qmp.InetAddress("::", "4")},
				PostcopyVCPUBlocktime: []uint32{1, 2}, ErrorDesc: new("e"), BlockedReasons: []string{"r"}, CPUThrottlePercentage: new(int64(20)),
			}, asAny(qmp.QueryMigrate)},
		{"query-yank", `{}`, `[{"type":"chardev","id":"m"}]`, []qmp.YankInstance{{Type: "chardev", ID: "m"}}, asAny(qmp.QueryYank)},
		{"query-memory-size-summary", `{}`, `{"base-memory":5}`, qmp.MemorySize{Base: 5}, asAny(qmp.QueryMemorySizeSummary)},
		{"query-jobs", `{}`, `[{"id":"j","type":"mirror","status":"concluded","current-progress":1,"total-progress":2,"error":"e"}]`,
			[]qmp.Job{{ID: "j", Type: "mirror", Status: qmp.JobConcluded, CurrentProgress: 1, TotalProgress: 2, Error: new("e")}}, asAny(qmp.QueryJobs)},
		{"query-block-exports", `{}`, `[{"id":"e","type":"nbd","node-name":"n","shutting-down":true}]`,
			[]qmp.BlockExport{{ID: "e", Type: "nbd", NodeName: "n", ShuttingDown: true}}, asAny(qmp.QueryBlockExports)},
		{"query-dirty-rate", `{}`, `{"status":"measuring","start-time":1,"calc-time":2}`,
			qmp.DirtyRate{Status: "measuring", StartTime: 1, CalcTime: 2}, asAny(qmp.QueryDirtyRate)},
		{"query-vcpu-dirty-limit", `{}`, `[{"cpu-index":0,"limit-rate":1,"current-rate":2}]`,
			[]qmp.VCPUDirtyLimit{{LimitRate: 1, CurrentRate: 2}}, asAny(qmp.QueryVCPUDirtyLimit)},
		{"qom-list", `{"path":"/"}`, `[{"name":"a","type":"bool","default-value":true}]`,
			[]qmp.QOMProperty{{Name: "a", Type: "bool", DefaultValue: json.RawMessage("true")}},
			func(ctx context.Context, x qmp.Executor) (any, error) { return qmp.QOMList(ctx, x, "/") }},
		{"qom-get", `{"path":"/","property":"p"}`, `5`, 5, func(ctx context.Context, x qmp.Executor) (any, error) {
			var n int
			err := qmp.QOMGet(ctx, x, "/", "p", &n)
			return n, err
		}},
		{"human-monitor-command", `{"command-line":"info"}`, `"text"`, "text", func(ctx context.Context, x qmp.Executor) (any, error) {
			return qmp.HumanMonitorCommand(ctx, x, "info")
		}},
	}
}

func TestQueries(t *testing.T) {
	for _, tc := range queryCases() {
		t.Run(tc.command, func(t *testing.T) {
			c := script(t, qmptest.Expect(tc.command).Args(json.RawMessage(tc.args)).Return(json.RawMessage(tc.reply)),
				qmptest.Expect(tc.command).Fail("GenericError", "refused"), qmptest.Expect(tc.command).Return([][]bool{}))
			ctx := testContext(t)
			got, err := tc.run(ctx, c)
			if d := cmp.Diff(tc.want, got); err != nil || d != "" {
				t.Errorf("%v\n%s", err, d)
			}
			if _, err := tc.run(ctx, c); err == nil {
				t.Error("the refusal was not reported")
			}
			if _, err := tc.run(ctx, c); err == nil && got != nil && tc.reply[0] == '{' {
				t.Error("a list in place of an object was accepted")
			}
		})
	}
}
