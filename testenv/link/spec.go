package link

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bounds of what a Spec may ask for.
const (
	// MinRate is the slowest link, in bits per second. Below it a full-sized
	// frame would take longer than most timeouts.
	MinRate = 64_000
	// MaxRate is the fastest shaped link, in bits per second.
	MaxRate = 400_000_000_000
	// MaxDelay is the longest one-way delay.
	MaxDelay = 10 * time.Second
	// maxText bounds the text that ParseSpec looks at.
	maxText = 256
)

// Spec says what one host's link is like. The zero value is a link without
// limits: no shaping, no delay, no loss.
type Spec struct {
	// Rate is the limit of each direction in bits per second; 0 is no limit.
	Rate uint64 `json:"rate_bits_per_s,omitempty"`
	// Delay is added one way to what the host sends.
	Delay time.Duration `json:"delay_ns,omitempty"`
	// Loss is the share of the frames sent by the host that vanish, 0 to 1.
	Loss float64 `json:"loss,omitempty"`
	// Seed starts the generator that picks the frames to lose.
	Seed uint64 `json:"seed,omitempty"`
}

// errEmpty is the error for a part with nothing in it.
var errEmpty = errors.New("it is empty")

// ParseSpec reads "RATE[,delay=D][,loss=P][,seed=N]". RATE is a number with bit,
// kbit, mbit, gbit (decimal, as tc has it), or "unlimited"; D is a Go duration;
// P is a percentage ("0.1%") or a share ("0.001"). The error names the part that
// is wrong and what would be right.
func ParseSpec(text string) (Spec, error) {
	if len(text) > maxText {
		return Spec{}, fmt.Errorf("link spec is %d bytes long, more than %d", len(text), maxText)
	}
	rate, rest, more := strings.Cut(text, ",")
	var s Spec
	var err error
	if s.Rate, err = ParseRate(strings.TrimSpace(rate)); err != nil {
		return Spec{}, fmt.Errorf("link spec %q: %w", text, err)
	}
	seen := map[string]bool{}
	for more {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if seen[key] {
			return Spec{}, fmt.Errorf("link spec %q: %s is given twice", text, key)
		}
		seen[key] = true
		if err := s.set(key, value); err != nil {
			return Spec{}, fmt.Errorf("link spec %q: %w", text, err)
		}
	}
	return s, nil
}

// set applies one key=value part.
func (s *Spec) set(key, value string) (err error) {
	switch key {
	case "delay":
		s.Delay, err = parseDelay(value)
	case "loss":
		s.Loss, err = parseLoss(value)
	case "seed":
		if s.Seed, err = strconv.ParseUint(value, 10, 64); err != nil {
			err = fmt.Errorf("seed %q is not a whole number", value)
		}
	default:
		err = fmt.Errorf("unknown part %q; known are delay=10ms, loss=0.1%%, seed=1", key)
	}
	return err
}

// units of a rate, longest name first so that "mbit" is not read as "bit".
var units = []struct {
	name  string
	scale float64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

// ParseRate reads a rate such as "1gbit" or "2.5mbit" as bits per second.
// "unlimited" is 0, which means no limit.
func ParseRate(text string) (uint64, error) {
	if text == "unlimited" {
		return 0, nil
	}
	for _, u := range units {
		number, ok := strings.CutSuffix(strings.ToLower(text), u.name)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(f) {
			return 0, fmt.Errorf("rate %q: %q is not a number", text, number)
		}
		bits := math.Round(f * u.scale)
		if bits < MinRate || bits > MaxRate {
			return 0, fmt.Errorf("rate %q is outside %s to %s", text, FormatRate(MinRate), FormatRate(MaxRate))
		}
		return uint64(bits), nil
	}
	return 0, fmt.Errorf(`rate %q has no unit; write it as 1gbit, 100mbit, 500kbit or "unlimited"`, text)
}

// FormatRate writes a rate in bits per second so that ParseRate reads it back.
func FormatRate(bits uint64) string {
	if bits == 0 {
		return "unlimited"
	}
	for _, u := range units {
		if scale := uint64(u.scale); bits >= scale && bits%scale == 0 {
			return strconv.FormatUint(bits/scale, 10) + u.name
		}
	}
	return strconv.FormatUint(bits, 10) + "bit"
}

func parseDelay(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("delay %q is not a duration such as 10ms", text)
	}
	if d < 0 || d > MaxDelay {
		return 0, fmt.Errorf("delay %q is outside 0s to %v", text, MaxDelay)
	}
	return d, nil
}

func parseLoss(text string) (float64, error) {
	if text == "" {
		return 0, fmt.Errorf("loss: %w", errEmpty)
	}
	number, percent := strings.CutSuffix(text, "%")
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) {
		return 0, fmt.Errorf("loss %q is not a percentage such as 0.1%%", text)
	}
	if percent {
		f /= 100
	}
	if f < 0 || f > 1 {
		return 0, fmt.Errorf("loss %q is outside 0%% to 100%%", text)
	}
	return f + 0, nil // +0 turns a negative zero into zero
}

// Validate reports what of s is outside the bounds. A Spec from ParseSpec is
// always valid; one that was filled in by hand may not be.
func (s Spec) Validate() error {
	_, err := ParseSpec(s.String())
	return err
}

// Proxied reports whether the link needs a Forwarder, which costs a copy of each
// frame; a link that is only rate limited does not.
func (s Spec) Proxied() bool { return s.Delay != 0 || s.Loss != 0 }

// String writes s in the form that ParseSpec reads.
func (s Spec) String() string {
	text := FormatRate(s.Rate)
	if s.Delay != 0 {
		text += ",delay=" + s.Delay.String()
	}
	if s.Loss != 0 {
		text += ",loss=" + strconv.FormatFloat(s.Loss, 'g', -1, 64)
	}
	if s.Seed != 0 {
		text += ",seed=" + strconv.FormatUint(s.Seed, 10)
	}
	return text
}

// Bucket is what a token bucket (tbf) is told for a rate.
type Bucket struct {
	// BytesPerSecond is the rate.
	BytesPerSecond uint64
	// Burst is how many bytes may leave at once. It covers one segmentation
	// offload frame, or the kernel would cut each of them up.
	Burst uint32
	// Queue is how many bytes wait before frames are dropped: about 10 ms of the
	// link, as in a switch with small buffers.
	Queue uint32
}

// Bucket returns the token bucket for the link's rate; ok is false for a link
// without a limit.
func (s Spec) Bucket() (b Bucket, ok bool) {
	if s.Rate == 0 {
		return Bucket{}, false
	}
	const frame = 64 << 10
	bytes := s.Rate / 8
	clamp := func(v uint64, least uint64) uint32 {
		return uint32(min(max(v, least), 256<<20))
	}
	return Bucket{
		BytesPerSecond: bytes,
		Burst:          clamp(bytes/1000, frame+4096),
		Queue:          clamp(bytes/100, 4*frame),
	}, true
}
