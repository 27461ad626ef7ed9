//go:build cgo

package handoff

import (
	"context"
	"net"
	"testing"

	"github.com/loopholelabs/userfaultfd-go/pkg/mapper"
	"github.com/loopholelabs/userfaultfd-go/pkg/transfer"
)

func init() {
	transferKid = func(_ context.Context, conn *net.UnixConn) ([]byte, error) {
		mem, uffd, start, err := mapper.Register(kidPages * basePage)
		if err != nil {
			return nil, err
		}
		return mem, transfer.SendUFFD(conn, uffd, start)
	}
}

// The real userfaultfd-go hands over, with its descriptor 0 and a userfaultfd that blocks.
func TestT1TransferForm(t *testing.T) {
	k := startKid(t, "transfer")
	h, err := ReceiveTransfer(t.Context(), k.conn, kidPages*basePage)
	if err != nil {
		t.Fatal(err)
	}
	if st := k.serve(t, h); st.Remaining != 0 || st.Demanded+st.Prepaged != kidPages {
		t.Errorf("%+v", st)
	}
}
