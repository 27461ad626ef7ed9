package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func sampleResult() Result {
	return Result{
		Domain: "web", Source: "qemu:///system", Destination: "qemu+tls://b/system",
		Strategy: migrate.StrategyPrecopy, Reason: "no post-copy: the destination's QEMU may not use userfaultfd",
		Strategies: []Choice{{Strategy: migrate.StrategyPrecopy, Possible: true, Certain: true}},
		Findings: []Finding{
			{IDNameTaken, Blocker, migrate.SideDestination, "another domain is named web there",
				"its UUID is 11111111-2222-3333-4444-555555555555 and it is running; the guest's UUID is 6b1d7a4e-0000-4000-8000-000000000001",
				"migrate under another name (--dname NEW), or rename the other: virsh -c qemu+tls://b/system domrename web NEW"},
			{IDClockSkew, Warning, migrate.SideDestination, "the hosts' clocks differ", "the destination is 3s behind against the source (±2ms)",
				"let both hosts follow the same time server: timedatectl set-ntp true"},
			{IDPortBlocked, Unknown, migrate.SideSource, "could not tell whether the source reaches b:49215 (RAM)", "", ""},
		},
	}
}

func TestText(t *testing.T) {
	want := `blocker  destination  another domain is named web there [name-taken]
                      its UUID is 11111111-2222-3333-4444-555555555555 and it is
                      running; the guest's UUID is
                      6b1d7a4e-0000-4000-8000-000000000001
         fix: migrate under another name (--dname NEW), or rename the other:
              virsh -c qemu+tls://b/system domrename web NEW
warning  destination  the hosts' clocks differ [clock-skew]
                      the destination is 3s behind against the source (±2ms)
         fix: let both hosts follow the same time server: timedatectl set-ntp
              true
unknown  source       could not tell whether the source reaches b:49215 (RAM)
                      [port-blocked]

blocked: 1 blocker, 1 warning, 1 could not be told
strategy: precopy (no post-copy: the destination's QEMU may not use userfaultfd)
`
	var b bytes.Buffer
	if err := sampleResult().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	if err := (Result{Strategy: migrate.StrategyHybrid, Reason: "as asked"}).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != "ready: nothing speaks against it\nstrategy: hybrid (as asked)\n" {
		t.Errorf("%q", got)
	}
}

// No line is longer than 80 columns, whatever was found.
func TestTextWidth(t *testing.T) {
	f := goodFacts()
	f.Params = migrate.Params{Strategy: migrate.StrategyHybrid, Parallel: 4, AutoConverge: true, DirtyLimit: true, MigrateDisks: []string{"x"}}
	f.Machines, f.CPU = Known([]string{"pc-q35-2.1"}), Known(CPUFit{Why: strings.Repeat("feature ", 60)})
	f.Reach.Addresses, f.Images = Known([]string{}), map[string]Answer[migrate.VolumeFacts]{"sda": Known(migrate.VolumeFacts{})}
	var b bytes.Buffer
	r := Conclude(f)
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) < 8 {
		t.Errorf("only %d findings", len(r.Findings))
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
		if strings.TrimRight(line, " \n") != strings.TrimRight(line, "\n") {
			t.Errorf("trailing space: %q", line)
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := sampleResult().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got document
	dec := json.NewDecoder(&b)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := sampleResult()
	if got.Schema != Schema || !got.Blocked || got.Domain != "web" || got.Reason != want.Reason || !reflect.DeepEqual(got.Findings, want.Findings) {
		t.Errorf("read back %+v", got)
	}
	empty, err := json.Marshal(Result{})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"findings":[]`, `"strategies":[]`, `"blocked":false`, `"schema":"vmmigrate.check/v1"`} {
		if !bytes.Contains(empty, []byte(part)) {
			t.Errorf("%s lacks %s", empty, part)
		}
	}
}

func TestResultErr(t *testing.T) {
	for id, want := range map[string]error{
		IDMigrationRunning: migrate.ErrBusy, IDNoDomain: migrate.ErrNoDomain, IDDiskNoRoom: migrate.ErrBlocked,
	} {
		r := Result{Findings: []Finding{{ID: IDPaused, Severity: Warning}, {ID: id, Severity: Blocker, Side: src, Title: "why", Fix: "do"}}}
		err := r.Err()
		var oe *migrate.OpError
		if !errors.Is(err, migrate.ErrBlocked) || !errors.Is(err, want) || !errors.As(err, &oe) {
			t.Fatalf("%s: %v", id, err)
		}
		if oe.Phase != migrate.PhaseChecking || oe.Side != src || oe.Owner != migrate.OwnerSource || oe.Fix != "do" {
			t.Errorf("%s: %+v", id, oe)
		}
	}
	if err := (Result{Findings: []Finding{{Severity: Warning}, {Severity: Unknown}, {Severity: Info}}}).Err(); err != nil {
		t.Errorf("not blocked, yet %v", err)
	}
}

func TestSortFindings(t *testing.T) {
	fs := []Finding{{ID: "i", Severity: Info}, {ID: "u", Severity: Unknown}, {ID: "b1", Severity: Blocker}, {ID: "w", Severity: Warning}, {ID: "b2", Severity: Blocker}}
	sortFindings(fs)
	var order []string
	for _, f := range fs {
		order = append(order, f.ID)
	}
	if got := strings.Join(order, " "); got != "b1 b2 w u i" {
		t.Error(got)
	}
}

// The IDs are kebab-case, unique, and each is used by a rule.
func TestIDs(t *testing.T) {
	text, err := os.ReadFile("ids.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^\t(ID\w+)\s+= "([^"]+)"$`).FindAllStringSubmatch(string(text), -1)
	if len(names) < 60 {
		t.Fatalf("only %d IDs found", len(names))
	}
	var code []byte
	for _, file := range []string{"rules_guest.go", "rules_host.go", "rules_devices.go", "rules_disks.go", "rules_network.go",
		"rules_tls.go", "rules_options.go", "rules_nbd.go", "resolve.go", "dial.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, b...)
	}
	seen := map[string]bool{}
	for _, m := range names {
		if seen[m[2]] || !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(m[2]) {
			t.Errorf("ID %q is double or not kebab-case", m[2])
		}
		seen[m[2]] = true
		if !regexp.MustCompile(`\b` + m[1] + `\b`).Match(code) {
			t.Errorf("nothing gives %s", m[1])
		}
	}
}

func TestShellWord(t *testing.T) {
	for in, want := range map[string]string{"web": "web", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "qemu+tls://b/system": "qemu+tls://b/system", "$x": "'$x'"} {
		if got := shellWord(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
