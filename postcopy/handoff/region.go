package handoff

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Region is a mapping of the process that faults. Sizes are in bytes.
type Region struct {
	// Addr is where it begins in that process.
	Addr uint64
	// Size is a whole number of pages.
	Size int64
	// Offset is where its contents begin in whatever they come from.
	Offset int64
	// PageSize is that of the mapping: the kernel places no less.
	PageSize int64
}

// What is accepted at most.
const (
	maxMessage = 64 << 10
	maxRegions = 512
	maxAddr    = 1 << 56 // addresses of user space end below, with five levels of page tables
	maxOffset  = 1 << 50
	basePage   = 4096
)

// mapping is a region as Firecracker writes it.
type mapping struct {
	Base        uint64 `json:"base_host_virt_addr"`
	Size        uint64 `json:"size"`
	Offset      uint64 `json:"offset"`
	PageSize    uint64 `json:"page_size,omitempty"`
	PageSizeKiB uint64 `json:"page_size_kib,omitempty"`
}

// DecodeRegions reads Firecracker's list of regions and checks it. Members that are not known are ignored.
func DecodeRegions(text []byte) ([]Region, error) {
	if len(text) > maxMessage {
		return nil, fmt.Errorf("regions of guest memory: %d bytes are more than %d", len(text), maxMessage)
	}
	var list []mapping
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("regions of guest memory: %w", err)
	}
	if len(list) > maxRegions {
		return nil, fmt.Errorf("%d regions of guest memory, more than %d", len(list), maxRegions)
	}
	out := make([]Region, 0, len(list))
	for i, m := range list {
		r, err := m.region()
		if err != nil {
			return nil, fmt.Errorf("region %d of guest memory: %w", i, err)
		}
		out = append(out, r)
	}
	if err := check(out); err != nil {
		return nil, err
	}
	return out, nil
}

// EncodeRegions writes the list as Firecracker does, with both names of the page size.
func EncodeRegions(regions []Region) ([]byte, error) {
	if err := check(regions); err != nil {
		return nil, err
	}
	list := make([]mapping, 0, len(regions))
	for _, r := range regions {
		list = append(list, mapping{r.Addr, uint64(r.Size), uint64(r.Offset), uint64(r.PageSize), uint64(r.PageSize)})
	}
	return json.Marshal(list)
}

func (m mapping) region() (Region, error) {
	size, err := m.pageSize()
	if err != nil {
		return Region{}, err
	}
	if m.Size > maxOffset || m.Offset > maxOffset || size > maxOffset {
		return Region{}, fmt.Errorf("size %d, offset %d or page size %d is too large", m.Size, m.Offset, size)
	}
	return Region{Addr: m.Base, Size: int64(m.Size), Offset: int64(m.Offset), PageSize: int64(size)}, nil
}

// pageSize is in bytes, under whichever name. A page_size_kib below 4096 can only be meant as its name says.
func (m mapping) pageSize() (uint64, error) {
	old := m.PageSizeKiB
	if old < basePage {
		old *= 1024
	}
	if m.PageSize != 0 && old != 0 && m.PageSize != old {
		return 0, fmt.Errorf("page_size is %d and page_size_kib %d", m.PageSize, m.PageSizeKiB)
	}
	return cmp.Or(m.PageSize, old, basePage), nil
}

// check refuses regions that cannot be, and those that overlap.
func check(regions []Region) error {
	if len(regions) == 0 {
		return errors.New("no region of guest memory")
	}
	for i, r := range regions {
		if err := r.check(); err != nil {
			return fmt.Errorf("region %d of guest memory: %w", i, err)
		}
	}
	byAddr := slices.SortedFunc(slices.Values(regions), func(a, b Region) int { return cmp.Compare(a.Addr, b.Addr) })
	for i, r := range byAddr[1:] {
		if before := byAddr[i]; before.Addr+uint64(before.Size) > r.Addr {
			return fmt.Errorf("the regions of guest memory at %#x and %#x overlap", before.Addr, r.Addr)
		}
	}
	return nil
}

func (r Region) check() error {
	if err := r.block(0).Check(); err != nil {
		return err
	}
	switch page := uint64(r.PageSize); {
	case r.Addr == 0 || r.Addr >= maxAddr || r.Addr%page != 0 || r.Addr+uint64(r.Size) > maxAddr:
		return fmt.Errorf("%d bytes at address %#x are no pages of %d bytes of a process", r.Size, r.Addr, page)
	case r.Offset < 0 || r.Offset > maxOffset || r.Offset%basePage != 0:
		return fmt.Errorf("offset %d is no multiple of %d, or too large", r.Offset, basePage)
	}
	return nil
}

// block is the region as a RAM block.
func (r Region) block(i int) ram.Block {
	return ram.Block{Name: fmt.Sprintf("region%d", i), Size: r.Size, PageSize: r.PageSize}
}
