package handoff

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// kidEnv makes the test binary a kid, a process that hands its userfaultfd over and then touches its memory. Its value
// is the form it does it in.
const kidEnv = "HANDOFF_TEST_KID"

// kids are the forms by name. They hand over through the connection and return the memory to be touched.
func kids() map[string]func(context.Context, *net.UnixConn) ([]byte, error) {
	all := map[string]func(context.Context, *net.UnixConn) ([]byte, error){"firecracker": firecrackerKid}
	if transferKid != nil {
		all["transfer"] = transferKid
	}
	return all
}

// transferKid is there when cgo is.
var transferKid func(context.Context, *net.UnixConn) ([]byte, error)

func TestMain(m *testing.M) {
	if form := os.Getenv(kidEnv); form != "" {
		if err := runKid(form); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// filling is the byte at a place of the file that memory is filled with.
func filling(i int) byte { return byte(i*7 + i>>12*13 + i>>20) }

func fillingOf(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = filling(i)
	}
	return p
}

// runKid hands over, and reads its memory with four threads, each every page in another order.
func runKid(form string) error {
	f := os.NewFile(3, "handoff")
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	mem, err := kids()[form](context.Background(), c.(*net.UnixConn))
	if err != nil {
		return err
	}
	errs := make(chan error, 4)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			runtime.LockOSThread()
			errs <- touch(mem, i)
		})
	}
	wg.Wait()
	for range 4 {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func touch(mem []byte, thread int) error {
	pages := len(mem) / basePage
	for k := range pages {
		page := (k*(2*thread+1) + thread*17) % pages
		if thread%2 == 1 {
			page = pages - 1 - page
		}
		for i := page * basePage; i < (page+1)*basePage; i++ {
			if mem[i] != filling(i) {
				return fmt.Errorf("byte %d of page %d is %d, not %d", i%basePage, page, mem[i], filling(i))
			}
		}
	}
	return nil
}
