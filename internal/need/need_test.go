package need

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	lack := &absence{reason: "no such thing", remedy: "buy one"}
	tests := []struct {
		name     string
		lack     *absence
		required string
		want     verdict
		mentions []string
	}{
		{"present", nil, "", verdictRun, nil},
		{"present and required", nil, "kvm,qemu", verdictRun, nil},
		{"absent", lack, "", verdictSkip, []string{"qemu", "no such thing", "buy one", RequireEnv}},
		{"absent, another required", lack, "kvm", verdictSkip, []string{"no such thing"}},
		{"absent and required", lack, "qemu", verdictFail, []string{"qemu", "no such thing", "buy one", RequireEnv}},
		{"absent and required among others", lack, "uffd, qemu ,,kvm", verdictFail, []string{"buy one"}},
		{"misspelt, present", nil, "qmeu", verdictFail, []string{`"qmeu"`, "uffd,netns,qemu,libvirt,kvm,nbd"}},
		{"misspelt, absent", lack, "QEMU", verdictFail, []string{`"QEMU"`}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, text := decide(featureQEMU, tc.lack, tc.required)
			if got != tc.want {
				t.Errorf("verdict %d, want %d (%s)", got, tc.want, text)
			}
			for _, m := range tc.mentions {
				if !strings.Contains(text, m) {
					t.Errorf("text %q does not mention %q", text, m)
				}
			}
		})
	}
}

func TestUFFDBySysctl(t *testing.T) {
	tests := []struct {
		name    string
		content string
		err     error
		root    bool
		present bool
	}{
		{"no such file", "", errors.New("no such file"), true, false},
		{"root", "0\n", nil, true, true},
		{"user, refused", "0\n", nil, false, false},
		{"user, granted", "1\n", nil, false, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			lack := uffdBySysctl(tc.content, tc.err, tc.root)
			if (lack == nil) != tc.present {
				t.Errorf("absence %+v, want present=%t", lack, tc.present)
			}
		})
	}
}

// recorder stands in for a test and notes how it ended.
type recorder struct {
	testing.TB
	ended string
	text  string
}

func (*recorder) Helper() {}

func (r *recorder) Skip(args ...any)  { r.end("skip", args) }
func (r *recorder) Fatal(args ...any) { r.end("fatal", args) }

func (r *recorder) end(how string, args []any) {
	r.ended, r.text = how, fmt.Sprint(args...)
	runtime.Goexit()
}

// run calls fn as a test of its own would be called.
func run(fn func(testing.TB)) *recorder {
	r := &recorder{ended: "ran"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(r)
	}()
	<-done
	return r
}

// Every helper must skip on a machine that has nothing, and fail there when its
// own name is required. An empty PATH is such a machine for the ones that look
// programs up.
func TestHelpersSkipAndFail(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	helpers := map[feature]func(testing.TB){featureQEMU: QEMU, featureLibvirt: Libvirt, featureNetns: Netns, featureNBD: NBD,
		featureGuest: func(t testing.TB) { Guest(t, errors.New("no kernel")) }}
	for name, fn := range helpers {
		t.Run(string(name), func(t *testing.T) {
			t.Setenv(RequireEnv, "")
			r := run(fn)
			if r.ended != "skip" || !strings.Contains(r.text, string(name)) {
				t.Errorf("without requirement: %s %q, want skip", r.ended, r.text)
			}
			if (name == featureQEMU || name == featureLibvirt || name == featureNBD) && strings.Contains(r.text, "PATH") && !strings.Contains(r.text, "remedy: make install-test") {
				t.Errorf("the first remedy for what is not installed is another one: %q", r.text)
			}
			t.Setenv(RequireEnv, "kvm,"+string(name))
			if r := run(fn); r.ended != "fatal" || !strings.Contains(r.text, string(name)) {
				t.Errorf("required: %s %q, want fatal", r.ended, r.text)
			}
		})
	}
}

// On any machine a helper either runs the test or skips it with a remedy, and a
// misspelt requirement fails it.
func TestHelpersOnThisMachine(t *testing.T) {
	helpers := map[feature]func(testing.TB){
		featureQEMU: QEMU, featureLibvirt: Libvirt, featureNetns: Netns, featureUFFD: UFFD, featureKVM: KVM, featureNBD: NBD,
		featureGuest: func(t testing.TB) { Guest(t, nil) },
	}
	if len(helpers) != len(features()) {
		t.Fatalf("%d helpers for %d features", len(helpers), len(features()))
	}
	for name, fn := range helpers {
		t.Setenv(RequireEnv, "")
		r := run(fn)
		t.Logf("%s: %s %s", name, r.ended, r.text)
		if r.ended == "fatal" {
			t.Errorf("%s failed though nothing is required: %s", name, r.text)
		}
		t.Setenv(RequireEnv, "nonsense")
		if r := run(fn); r.ended != "fatal" {
			t.Errorf("%s: misspelt requirement: %s, want fatal", name, r.ended)
		}
	}
}
