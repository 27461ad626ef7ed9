package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/testenv"
)

// TestMain puts this test binary into PATH as vmmigrate, so that scripts and the lab's tests run the command as users do,
// with the race detector in it. The lab's helpers are made from the same binary, too.
func TestMain(m *testing.M) {
	testenv.Init()
	// A program with the race detector in it waits for a second when it ends; the commands are too many for that.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	testscript.Main(runner{m}, map[string]func(){
		"vmmigrate": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// runner takes the lab down after the tests and looks for goroutines that are left.
type runner struct{ m *testing.M }

func (r runner) Run() int {
	code := r.m.Run()
	if err := theLab.down(); err != nil {
		fmt.Fprintln(os.Stderr, "lab down:", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left:", err)
			code = 1
		}
	}
	return code
}
