package qmp

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const ramTable = `              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 0x00007ff9c3e00000  rw
    /rom@etc/acpi/tables    4 KiB  0x0000000004080000 0x0000000000020000 0x0000000000200000 0x00007ffa14e00000  ro
   a name with blanks       2 MiB  0x1 0x2 0x3 0x4  rw

`

func TestParseRAMBlocks(t *testing.T) {
	got, err := ParseRAMBlocks(ramTable)
	want := []RAMBlock{
		{"pc.ram", 4096, 0, 0x4000000, 0x4000000, new(uint64(0x7ff9c3e00000)), new(false)},
		{"/rom@etc/acpi/tables", 4096, 0x4080000, 0x20000, 0x200000, new(uint64(0x7ffa14e00000)), new(true)},
		{"a name with blanks", 2 << 20, 1, 2, 3, new(uint64(4)), new(false)},
	}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	got, err = ParseRAMBlocks("Block Name    PSize   Offset  Used  Total\n pc.ram 4 KiB 0x0 0x10 0x20\n")
	if d := cmp.Diff([]RAMBlock{{Name: "pc.ram", PageSize: 4096, Used: 16, Total: 32}}, got); err != nil || d != "" {
		t.Errorf("older table: %v\n%s", err, d)
	}
}

func TestParseRAMBlocksRefuses(t *testing.T) {
	header := "Block Name PSize Offset Used Total HVA RO\n"
	for name, text := range map[string]string{
		"nothing":        "",
		"another header": "Block Size\n",
		"a new column":   "Block Name PSize Offset Used Total Color\n b 4 KiB 0x0 0x0 0x0 red\n",
		"a short line":   header + "pc.ram 4 KiB 0x0 0x1 0x1 0x1\n",
		"no name":        header + "4 KiB 0x0 0x1 0x1 0x1 rw\n",
		"not hex":        header + "pc.ram 4 KiB 0x0 12 0x1 0x1 rw\n",
		"page size":      header + "pc.ram x KiB 0x0 0x1 0x1 0x1 rw\n",
		"unit":           header + "pc.ram 4 XiB 0x0 0x1 0x1 0x1 rw\n",
		"overflow":       header + "pc.ram 99999999999999 GiB 0x0 0x1 0x1 0x1 rw\n",
		"access":         header + "pc.ram 4 KiB 0x0 0x1 0x1 0x1 wx\n",
		"address":        header + "pc.ram 4 KiB 0x0 0x1 0x1 zz rw\n",
	} {
		if got, err := ParseRAMBlocks(text); err == nil {
			t.Errorf("%s was accepted as %+v", name, got)
		}
	}
}

// FuzzParseRAMBlocks: no table makes it panic, and no line of an accepted one is
// left out.
func FuzzParseRAMBlocks(f *testing.F) {
	f.Add(ramTable)
	f.Add("Block Name PSize Offset Used Total\n x 4 KiB 0x0 0x0 0x0")
	f.Fuzz(func(t *testing.T, text string) {
		blocks, err := ParseRAMBlocks(text)
		if err != nil {
			return
		}
		lines := 0
		for line := range strings.Lines(text) {
			if strings.TrimSpace(line) != "" {
				lines++
			}
		}
		if len(blocks) != lines-1 {
			t.Fatalf("%d blocks of %d lines", len(blocks), lines-1)
		}
	})
}
