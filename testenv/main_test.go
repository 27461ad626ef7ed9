package testenv

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"testing"

	"go.uber.org/goleak"
)

// starterEnv makes the test binary a process that brings a lab up, so that tests
// can kill it. Its value is "DIR" for a lab that stays, "DIR bound" for one that is
// bound.
const starterEnv = "TEST_LAB_STARTER"

func TestMain(m *testing.M) {
	Init()
	if what := os.Getenv(starterEnv); what != "" {
		starter(what)
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// starter brings a lab up, tells each step on standard output, and waits to be
// killed or for its input to end.
func starter(what string) {
	c := Config{Name: "t", Bare: true, Progress: func(step string) { fmt.Println("step:", step) }}
	var how string
	fmt.Sscan(what, &c.Dir, &how)
	c.Bound = how == "bound"
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if _, err := Up(ctx, c); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("up")
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}
