package qmp_test

import (
	"encoding/json"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

const smallSchema = `[
	{"name":"migrate","meta-type":"command","arg-type":"1","ret-type":"0"},
	{"name":"yank","meta-type":"command","arg-type":"0","ret-type":"0","allow-oob":true},
	{"name":"MIGRATION","meta-type":"event","arg-type":"2"},
	{"name":"0","meta-type":"object","members":[]},
	{"name":"1","meta-type":"object","members":[{"name":"uri","type":"str","default":null},{"name":"channels","type":"[3]"}]},
	{"name":"2","meta-type":"object","members":[{"name":"status","type":"5"}]},
	{"name":"[3]","meta-type":"array","element-type":"3"},
	{"name":"3","meta-type":"object","members":[{"name":"transport","type":"5"}],"tag":"transport","variants":[{"case":"a","type":"4"},{"case":"b","type":"3"}]},
	{"name":"4","meta-type":"object","members":[{"name":"path","type":"str"}]},
	{"name":"5","meta-type":"enum","members":[{"name":"a"},{"name":"b"}]},
	{"name":"loop","meta-type":"command","arg-type":"[6]","ret-type":"0"},
	{"name":"[6]","meta-type":"array","element-type":"[6]"},
	{"name":"str","meta-type":"builtin"}]`

func TestSchema(t *testing.T) {
	c := script(t, qmptest.Expect("query-qmp-schema").Return(json.RawMessage(smallSchema)),
		qmptest.Expect("query-qmp-schema").Return(json.RawMessage(smallSchema)),
		qmptest.Expect("query-migrate-capabilities").Return(json.RawMessage(`[{"capability":"off-but-known","state":false}]`)),
		qmptest.Expect("query-migrate-capabilities").Return(json.RawMessage(`[]`)))
	ctx := testContext(t)
	s, err := qmp.QuerySchema(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]bool{
		"command":             s.HasCommand("migrate"),
		"event":               s.HasEvent("MIGRATION"),
		"oob":                 s.AllowsOOB("yank"),
		"argument":            s.HasArgument("migrate", "uri"),
		"no argument":         s.HasArgument("migrate"),
		"nested argument":     s.HasArgument("migrate", "channels", "transport"),
		"argument of variant": s.HasArgument("migrate", "channels", "path"),
		"member of event":     s.HasArgument("MIGRATION", "status"),
		"value":               s.HasArgumentValue("migrate", "b", "channels", "transport"),
	} {
		if !got {
			t.Errorf("%s not found", what)
		}
	}
	for what, got := range map[string]bool{
		"event as command":    s.HasCommand("MIGRATION"),
		"command as event":    s.HasEvent("migrate"),
		"type as command":     s.HasCommand("str"),
		"oob":                 s.AllowsOOB("migrate"),
		"unknown oob":         s.AllowsOOB("nope"),
		"argument":            s.HasArgument("migrate", "resume"),
		"argument of str":     s.HasArgument("migrate", "uri", "x"),
		"argument of type":    s.HasArgument("1", "uri"),
		"value":               s.HasArgumentValue("migrate", "z", "channels", "transport"),
		"value of str":        s.HasArgumentValue("migrate", "z", "uri"),
		"value of nothing":    s.HasArgumentValue("migrate", "z", "resume"),
		"argument of a loop":  s.HasArgument("loop", "x"),
		"endless unknown":     s.HasArgument("migrate", "channels", "unknown"),
		"argument of nothing": s.HasArgument("nope", "x"),
	} {
		if got {
			t.Errorf("%s found", what)
		}
	}
	if ok, err := qmp.HasCommand(ctx, c, "yank"); !ok || err != nil {
		t.Errorf("HasCommand: %t, %v", ok, err)
	}
	for _, want := range []bool{true, false} {
		if ok, err := qmp.HasCapability(ctx, c, "off-but-known"); ok != want || err != nil {
			t.Errorf("HasCapability: %t, %v, want %t", ok, err, want)
		}
	}
}
