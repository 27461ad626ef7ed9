package main

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// powerOff turns the guest off. All that was written to the disk was written
// past the page cache, so there is nothing else to put away.
func powerOff() {
	say("power off")
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
}

// An event of an input device (the kernel's struct input_event on amd64) is two
// words of time, then type and code of 2 bytes each and a value of 4.
const (
	eventSize  = 24
	eventKey   = 1
	keyPower   = 116
	keyPressed = 1
)

// pressed says whether an event is the power button going down.
func pressed(event []byte) bool {
	return binary.LittleEndian.Uint16(event[16:]) == eventKey &&
		binary.LittleEndian.Uint16(event[18:]) == keyPower &&
		binary.LittleEndian.Uint32(event[20:]) == keyPressed
}

// watchPowerButton opens every input device and returns; the guest is turned
// off when one of them is a power button and it is pressed.
func watchPowerButton() {
	devices, err := filepath.Glob("/dev/input/event*")
	if err != nil {
		return
	}
	for _, path := range devices {
		f, err := os.Open(path)
		if err != nil {
			say("power button: %v", err)
			continue
		}
		go func() {
			defer f.Close()
			if readUntilPressed(f) {
				powerOff()
			}
		}()
	}
}

// readUntilPressed reads events until one is the power button, or the end.
func readUntilPressed(r io.Reader) bool {
	event := make([]byte, eventSize)
	for {
		if _, err := io.ReadFull(r, event); err != nil {
			return false
		}
		if pressed(event) {
			return true
		}
	}
}
