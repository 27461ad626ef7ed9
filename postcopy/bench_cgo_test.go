//go:build cgo && linux

package postcopy_test

import (
	"bytes"

	"github.com/loopholelabs/userfaultfd-go/pkg/mapper"
)

// The peer that the fault path is measured against needs cgo.
func init() {
	handlers["userfaultfd-go"] = func(fd int, addr uint64, ram []byte) error {
		return mapper.Handle(mapper.UFFD(fd), uintptr(addr), bytes.NewReader(ram))
	}
}
