package libvirthost

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
)

func TestMain(m *testing.M) {
	testenv.Init()
	if uri := os.Getenv(openEnv); uri != "" {
		openAndTell(uri)
	}

	code := m.Run()
	theLab.down()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// openEnv makes the test binary a client that opens the URI in it from the host on which it was started.
const openEnv = "TEST_LIBVIRTHOST_OPEN"

func openAndTell(uri string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if uri == "default" {
		uri = ""
	}
	h, err := Open(ctx, uri, Options{})
	if err != nil {
		fmt.Printf("error: %v\nfix: %s\n", err, migrate.FixOf(err))
		os.Exit(0)
	}
	f, err := h.Facts(ctx)
	fmt.Printf("uuid: %s encrypted: %v local: %v err: %v\n", f.HostUUID, f.Encrypted, f.Local, err)
	h.Close()
	os.Exit(0)
}

// limit bounds one test with real hosts.
const limit = 2 * time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
