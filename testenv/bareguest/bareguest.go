package bareguest

import (
	"errors"
	"fmt"
	"os"
)

// PageSize is the guest's page, in bytes.
const PageSize = 4096

const (
	// MinRate is the lowest rate that the guest can keep, pages a second.
	MinRate = 20
	// MaxRate is the highest that means anything, pages a second.
	MaxRate = 1 << 26

	lowestStart = 1 << 20 // below are the status page and what a PC keeps there
	highestEnd  = 2 << 30 // a q35 machine has its devices above
)

// Config is what the guest does.
type Config struct {
	// Start and End bound the range of memory it writes to, in bytes from the
	// beginning of RAM: whole pages, at least one, from 1 MiB to 2 GiB. Both
	// zero mean 1 MiB to 101 MiB.
	Start, End uint32
	// Rate is pages a second, MinRate to MaxRate; 0 means as fast as it can.
	Rate uint32
	// Report is how many passes there are between two "B" on the serial port:
	// a power of two; 0 means 64.
	Report uint32
}

// ErrConfig is wrapped by the errors of Image and Write about a Config.
var ErrConfig = errors.New("bare guest configuration")

// filled puts in the defaults and checks the rest.
func (c Config) filled() (Config, error) {
	if c.Start == 0 && c.End == 0 {
		c.Start, c.End = 1<<20, 101<<20
	}
	if c.Report == 0 {
		c.Report = 64
	}
	return c, c.validate()
}

func (c Config) validate() error {
	switch {
	case c.Start%PageSize != 0 || c.End%PageSize != 0:
		return fmt.Errorf("%w: range %#x to %#x is not of whole pages", ErrConfig, c.Start, c.End)
	case c.Start < lowestStart || c.End > highestEnd || c.Start >= c.End:
		return fmt.Errorf("%w: range %#x to %#x: want a page or more from %#x to %#x", ErrConfig, c.Start, c.End, lowestStart, uint32(highestEnd))
	case c.Rate != 0 && (c.Rate < MinRate || c.Rate > MaxRate):
		return fmt.Errorf("%w: rate %d: want %d to %d pages a second, or 0", ErrConfig, c.Rate, MinRate, MaxRate)
	case c.Report&(c.Report-1) != 0:
		return fmt.Errorf("%w: report %d is no power of two", ErrConfig, c.Report)
	}
	return nil
}

// pitHz is how fast a PC's timer counts down, a second.
const pitHz = 1193182

// pace says how many pages the guest writes between two looks at the timer, and
// how far the timer counts meanwhile; 0 means that it does not look.
func (c Config) pace() (batch, interval uint32) {
	switch {
	case c.Rate == 0:
		return 1 << 16, 0
	case c.Rate < 100:
		return 1, pitHz / c.Rate
	default:
		return c.Rate / 100, uint32(uint64(c.Rate/100) * pitHz / uint64(c.Rate))
	}
}

// Write puts the image for c into a file for Args.
func Write(path string, c Config) error {
	image, err := Image(c)
	if err != nil {
		return err
	}
	return os.WriteFile(path, image, 0o644)
}

// Args are QEMU's arguments that start the image at path and nothing else: no
// default devices and no display. The caller adds the machine (q35 or pc), the
// accelerator with CPU, memory, a serial port and a monitor. Both ends of a
// migration need the same image.
func Args(path string) []string {
	return []string{"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-bios", path}
}

// CPU is QEMU's -cpu for an accelerator, "tcg" or "kvm": one that starts on every
// machine, a nested one as well.
func CPU(string) string { return "qemu64" }
