package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/testenv"
)

// runLab runs a command of the lab in a directory where no lab is.
func runLab(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv(testenv.DirEnv, t.TempDir())
	var out, errs bytes.Buffer
	code = run(context.Background(), append([]string{"lab"}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestLabUsage(t *testing.T) {
	for line, want := range map[string]string{
		"dance":                     `no command "dance"`,
		"up --link fast":            "write it as 1gbit",
		"up --link 1gbit,jitter=1":  `unknown part "jitter"`,
		"up --hosts 0":              "1 to 16 hosts",
		"up now":                    "takes no arguments",
		"guest":                     "wants NAME",
		"guest web --memory lots":   "--memory: size",
		"guest web --disk -1":       "--disk: disk",
		"guest web --disk 1M,x=1":   `unknown key "x"`,
		"uri":                       "wants HOST",
		"exec a":                    "HOST -- CMD",
		"exec a --":                 "HOST -- CMD",
		"link a":                    "HOST and down, up or a link spec",
		"link a sideways":           "or say down or up",
		"block a 0":                 "49152-49215",
		"block a 9-5":               "49152-49215",
		"unblock a x":               "49152-49215",
		"verify":                    "wants NAME",
		"certs a --valid next-week": "invalid argument",
		"status -o yaml":            "neither text nor json",
	} {
		code, _, stderr := runLab(t, strings.Fields(line)...)
		if code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("lab %s: exit %d, %q does not say %q", line, code, stderr, want)
		}
	}
}

func TestLabThatIsNotUp(t *testing.T) {
	for _, line := range []string{
		"status", "uri a", "remove web", "exec a -- true", "verify web", "witness web", "link a down", "block a 5", "certs a", "guest web",
	} {
		code, stdout, stderr := runLab(t, strings.Fields(line)...)
		if code != exitFailure || stdout != "" || !strings.Contains(stderr, "vmmigrate lab up") {
			t.Errorf("lab %s: exit %d, output %q, %q does not say how to go on", line, code, stdout, stderr)
		}
	}
	code, stdout, _ := runLab(t, "down")
	if code != exitDone || !strings.Contains(stdout, "there is no lab") {
		t.Errorf("lab down: exit %d, %q", code, stdout)
	}
	code, stdout, _ = runLab(t, "down", "-o", "json")
	var r downReport
	if err := json.Unmarshal([]byte(stdout), &r); code != exitDone || err != nil || r.Existed || r.Lab != testenv.DefaultName {
		t.Errorf("lab down -o json: exit %d, %+v, %v", code, r, err)
	}
}

func TestExecArgs(t *testing.T) {
	for line, want := range map[string]string{
		"a -- ls -l": "a ls -l", "a ls -l": "a ls -l", "a ls -- x": "a ls -- x", "a --": "a", "a": "a",
	} {
		if got := strings.Join(execArgs(strings.Fields(line)), " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestParsePorts(t *testing.T) {
	for text, want := range map[string]testenv.Ports{
		"5": {Low: 5, High: 5}, "49152-49215": {Low: 49152, High: 49215}, "1-65535": {Low: 1, High: 65535},
	} {
		if got, err := parsePorts(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "-", "0", "5-", "-5", "65536", "9-5", "a-b", "1-2-3", "0x10"} {
		if got, err := parsePorts(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	f.Add("49152-49215")
	f.Add("5")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := parsePorts(text); err == nil && (p.Low == 0 || p.Low > p.High) {
			t.Errorf("%q: %v", text, p)
		}
	})
}
