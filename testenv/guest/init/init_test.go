package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func event(kind, code uint16, value uint32) []byte {
	b := make([]byte, eventSize)
	binary.LittleEndian.PutUint16(b[16:], kind)
	binary.LittleEndian.PutUint16(b[18:], code)
	binary.LittleEndian.PutUint32(b[20:], value)
	return b
}

func TestOnlyThePowerButtonTurnsTheGuestOff(t *testing.T) {
	others := [][]byte{event(eventKey, keyPower, 0), event(eventKey, 30, 1), event(0, keyPower, 1)}
	stream := bytes.Join(others, nil)
	if readUntilPressed(bytes.NewReader(stream)) {
		t.Error("another key turned the guest off")
	}
	stream = append(stream, event(eventKey, keyPower, keyPressed)...)
	if !readUntilPressed(bytes.NewReader(stream)) {
		t.Error("the power button did nothing")
	}
	if readUntilPressed(io.LimitReader(bytes.NewReader(stream), int64(len(stream)-1))) {
		t.Error("half an event turned the guest off")
	}
}

// The guest is paused for an hour between reading one clock and the other.
func TestAPauseBetweenTwoClocksIsNoJump(t *testing.T) {
	now, reads := time.Second, 0
	mono, wall := clocks(func() (time.Duration, time.Duration) {
		reads++
		wall := now + 100*time.Hour
		if reads == 2 {
			now += time.Hour
		}
		mono := now
		now += time.Microsecond
		return mono, wall
	})
	if wall-mono != 100*time.Hour || reads != 3 {
		t.Errorf("clocks %v apart after %d reads, want 100h after 3", wall-mono, reads)
	}
}

func TestIncarnationsDiffer(t *testing.T) {
	if a, b := incarnation(), incarnation(); a == b || a == 0 {
		t.Errorf("%x and %x", a, b)
	}
}

func TestDisksAreOpenedInOrderAndMissedWhereTheyAreKnown(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int64{"vda": 8 << 20, "vdb": 4 << 20, "vdd": 1 << 20} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for want, used := range map[string][]int64{"vdb4 0": nil, "vdb4 3": {0, 3 << 20}} {
		disks, err := openDisks(dir, used)
		if err != nil {
			t.Fatal(err)
		}
		var is []string
		for i, d := range disks {
			is = append(is, fmt.Sprint(d.Name, d.Size>>20, d.Used>>20))
			disks[i].Device.(*os.File).Close()
		}
		if !slices.Equal(is, []string{"vda8 0", want}) {
			t.Errorf("%v: disks %q", used, is)
		}
	}
	for says, used := range map[string][]int64{"vdc": {0, 0, 0}, "vda: ": {9 << 20}} {
		if _, err := openDisks(dir, used); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v", used, err)
		}
	}
}
