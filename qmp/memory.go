package qmp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Memdev is a memory backend. Sizes are bytes.
type Memdev struct {
	// ID is the backend's name, such as pc.ram; objects without one have none.
	ID *string `json:"id"`
	// Size is its size.
	Size uint64 `json:"size"`
	// Merge tells whether the host may merge equal pages.
	Merge bool `json:"merge"`
	// Dump tells whether it is part of core dumps.
	Dump bool `json:"dump"`
	// Prealloc tells whether its pages were allocated at start.
	Prealloc bool `json:"prealloc"`
	// Share tells whether it is mapped shared; QEMU 6.1.
	Share *bool `json:"share"`
	// Reserve tells whether swap space is reserved for it; QEMU 6.1.
	Reserve *bool `json:"reserve"`
	// HostNodes are the NUMA nodes it is bound to.
	HostNodes []int64 `json:"host-nodes"`
	// Policy is how it is bound.
	Policy string `json:"policy"`
}

// QueryMemdev lists the memory backends.
func QueryMemdev(ctx context.Context, x Executor) ([]Memdev, error) {
	return query[[]Memdev](ctx, x, "query-memdev", nil)
}

// MemorySize is how much memory the guest has, in bytes.
type MemorySize struct {
	// Base is what it started with.
	Base uint64 `json:"base-memory"`
	// Plugged is what was added.
	Plugged *uint64 `json:"plugged-memory"`
}

// QueryMemorySizeSummary asks how much memory the guest has.
func QueryMemorySizeSummary(ctx context.Context, x Executor) (MemorySize, error) {
	return query[MemorySize](ctx, x, "query-memory-size-summary", nil)
}

// RAMBlock is one of QEMU's RAM blocks as its table shows it. Sizes are bytes.
type RAMBlock struct {
	// Name is the block's id string, such as pc.ram.
	Name string
	// PageSize is the host's page size behind it.
	PageSize uint64
	// Offset is where it lies in QEMU's own numbering of RAM, which is not the
	// guest's address.
	Offset uint64
	// Used is how much of it is in use, and migrated.
	Used uint64
	// Total is the largest it may become.
	Total uint64
	// HostAddress is where it is mapped in QEMU's process; nil where QEMU does not
	// say.
	HostAddress *uint64
	// ReadOnly tells whether the guest cannot write it; nil where QEMU does not
	// say.
	ReadOnly *bool
}

// QueryRAMBlockText gives the table of RAM blocks as QEMU prints it. The command
// is meant for people and may change: QEMU marks it unstable.
func QueryRAMBlockText(ctx context.Context, x Executor) (string, error) {
	v, err := query[struct {
		Text string `json:"human-readable-text"`
	}](ctx, x, "x-query-ramblock", nil)
	return v.Text, err
}

// QueryRAMBlocks asks for the table of RAM blocks and parses it.
func QueryRAMBlocks(ctx context.Context, x Executor) ([]RAMBlock, error) {
	text, err := QueryRAMBlockText(ctx, x)
	if err != nil {
		return nil, err
	}
	return ParseRAMBlocks(text)
}

// errRAMBlockTable is the cause when the table is not what we know.
var errRAMBlockTable = errors.New("unknown form of the RAM block table")

// ParseRAMBlocks parses the table that x-query-ramblock and the human monitor's
// "info ramblock" print. A column that it does not know, or a line that does not
// fit, is an error: a block must not be missed.
func ParseRAMBlocks(text string) ([]RAMBlock, error) {
	header, rest, _ := strings.Cut(text, "\n")
	columns := strings.Fields(strings.Replace(header, "Block Name", "Name", 1))
	if len(columns) < 5 || strings.Join(columns[:5], " ") != "Name PSize Offset Used Total" {
		return nil, fmt.Errorf("qmp: %w: header %q", errRAMBlockTable, header)
	}
	var blocks []RAMBlock
	for line := range strings.Lines(rest) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		b, err := parseRAMBlock(line, columns[5:])
		if err != nil {
			return nil, fmt.Errorf("qmp: %w: line %q", err, strings.TrimSpace(line))
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

// fixedFields is how many fields follow the name at least: the page size's number
// and unit, the offset, the used and the total size.
const fixedFields = 5

// parseRAMBlock parses one line, from the right, since only the name may hold
// spaces. Extra names the columns after the fixed ones.
func parseRAMBlock(line string, extra []string) (RAMBlock, error) {
	f := strings.Fields(line)
	nameEnd := len(f) - fixedFields - len(extra)
	if nameEnd < 1 {
		return RAMBlock{}, errRAMBlockTable
	}
	b := RAMBlock{Name: strings.Join(f[:nameEnd], " ")}
	f = f[nameEnd:]
	var err error
	if b.PageSize, err = parseSize(f[0], f[1]); err != nil {
		return RAMBlock{}, err
	}
	for i, dst := range []*uint64{&b.Offset, &b.Used, &b.Total} {
		if *dst, err = parseHex(f[2+i]); err != nil {
			return RAMBlock{}, err
		}
	}
	for i, column := range extra {
		if err := b.setExtra(column, f[fixedFields+i]); err != nil {
			return RAMBlock{}, err
		}
	}
	return b, nil
}

// setExtra sets the field of a column that not every QEMU has.
func (b *RAMBlock) setExtra(column, value string) error {
	switch column {
	case "HVA":
		v, err := parseHex(value)
		if err != nil {
			return err
		}
		b.HostAddress = &v
	case "RO":
		if value != "ro" && value != "rw" {
			return errRAMBlockTable
		}
		b.ReadOnly = new(value == "ro")
	default:
		return fmt.Errorf("%w: column %q", errRAMBlockTable, column)
	}
	return nil
}

// parseHex parses a number that begins with 0x.
func parseHex(s string) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	v, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil {
		return 0, errRAMBlockTable
	}
	return v, nil
}

// parseSize parses a size such as "4 KiB".
func parseSize(number, unit string) (uint64, error) {
	v, err := strconv.ParseUint(number, 10, 64)
	shift, ok := map[string]uint{"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[unit]
	if err != nil || !ok || v > math.MaxUint64>>shift {
		return 0, errRAMBlockTable
	}
	return v << shift, nil
}
