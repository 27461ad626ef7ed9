package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

func TestHostTable(t *testing.T) {
	table := AskHost()
	if len(table.Rows) != len(HostProbes()) || table.Schema != HostSchema {
		t.Fatalf("%+v", table)
	}
	seen := map[string]bool{}
	for _, r := range table.Rows {
		if seen[r.ID] || r.ID == "" || r.For == "" || (r.Presence == "absent") != (r.Fix != "") || r.Presence != "present" && r.Reason == "" {
			t.Errorf("row %+v", r)
		}
		seen[r.ID] = true
	}
	var text, data bytes.Buffer
	if err := errors.Join(table.WriteText(&text), table.WriteJSON(&data)); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if len(strings.TrimRight(line, "\n")) > textWidth {
			t.Errorf("too long: %q", line)
		}
	}
	var back HostTable
	if err := json.Unmarshal(data.Bytes(), &back); err != nil || len(back.Rows) != len(table.Rows) || back.Rows[0] != table.Rows[0] {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestHostRows(t *testing.T) {
	p := HostProbe{ID: "it", For: "work"}
	table := HostTable{Rows: []HostRow{
		p.row(sys.Probe{Presence: sys.Present}),
		p.row(sys.Probe{Presence: sys.Absent, Reason: "none here", Remedy: "get one"}),
		p.row(sys.Probe{Presence: sys.Unknown, Reason: "nobody knows"}),
		p.row(sys.Probe{}),
	}}
	var b strings.Builder
	if err := table.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := `present  it                 for work
absent   it                 for work
                            none here
         fix: get one
unknown  it                 for work
                            nobody knows
unknown  it                 for work
`
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
	if err := table.WriteText(broken{}); !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
	if err := table.WriteJSON(broken{}); !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }
