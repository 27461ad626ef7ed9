package main

import (
	"errors"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vmmigrate/vmmigrate/testenv"
)

// TestScripts runs what users type, without any host: usage, help, an absent and a damaged journal.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("VMMIGRATE_STATE_DIR", e.WorkDir+"/state")
			e.Setenv(testenv.DirEnv, e.WorkDir+"/labs")
			e.Setenv("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket="+e.WorkDir+"/no-such-socket")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": exitsWith},
	})
}

// exitsWith is `code N ARG…`: it runs vmmigrate and holds its exit code to N.
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: code N ARG...")
	}
	err := ts.Exec("vmmigrate", args[1:]...)
	if got := codeOf(err); got != args[0] {
		ts.Fatalf("vmmigrate %q: exit code %s, want %s (%v)", args[1:], got, args[0], err)
	}
}

// codeOf is the exit code in what Exec returned.
func codeOf(err error) string {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "0"
	case errors.As(err, &exit):
		return strconv.Itoa(exit.ExitCode())
	}
	return err.Error()
}
