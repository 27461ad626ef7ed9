package workload

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parse reads KIND[:key=value,…]. Keys that are left out have the documented
// defaults; a key that the kind does not take, or that is given twice, is an
// error. Text over MaxSpec bytes is refused.
func Parse(text string) (Spec, error) {
	if len(text) > MaxSpec {
		return Spec{}, fmt.Errorf("%w: %d bytes of text, at most %d are read", ErrSpec, len(text), MaxSpec)
	}
	word, rest, hasKeys := strings.Cut(text, ":")
	kind := Kind(slices.Index(kindNames[:], word))
	if kind == Invalid || int(kind) >= len(kindNames) {
		return Spec{}, fmt.Errorf("%w: unknown kind %q: use one of %s", ErrSpec, word, strings.Join(kindNames[1:], ", "))
	}
	s := defaults(kind)
	if hasKeys {
		if err := s.readKeys(rest); err != nil {
			return Spec{}, fmt.Errorf("%w %v: %w", ErrSpec, kind, err)
		}
	}
	if kind == Cycle && s.Phases == nil {
		s.Phases = []Phase{{Rate: s.Rate, Length: defaultPhase}, {Length: defaultPhase}}
	}
	if err := s.Validate(); err != nil {
		return Spec{}, err
	}
	return s, nil
}

func (s *Spec) readKeys(text string) error {
	known := keysOf(s.Kind)
	seen := make(map[string]bool, len(known))
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is not key=value", pair)
		}
		if !slices.Contains(known, key) {
			return fmt.Errorf("unknown key %q: this kind takes %s", key, strings.Join(known, ", "))
		}
		if seen[key] {
			return fmt.Errorf("%s is given twice", key)
		}
		seen[key] = true
		if err := s.set(key, value); err != nil {
			return fmt.Errorf("%s=%s: %w", key, value, err)
		}
	}
	return nil
}

func (s *Spec) set(key, value string) (err error) {
	switch key {
	case "size":
		s.Size, err = parseSize(value)
	case "rate":
		s.Rate, err = parseRate(value)
	case "writes":
		s.Writes, err = parseRate(value)
	case "hot":
		s.Hot, err = parseShare(value)
	case "bias":
		s.Bias, err = parseShare(value)
	case "phases":
		s.Phases, err = parsePhases(value)
	}
	return err
}

var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"", 1}}

func parseSize(text string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil {
			return 0, fmt.Errorf("want bytes, or a whole number with KiB, MiB or GiB")
		}
		if n > uint64(MaxSize/u.bytes) {
			return 0, fmt.Errorf("over %d bytes", int64(MaxSize))
		}
		return int64(n) * u.bytes, nil
	}
	return 0, nil // not reached: the last suffix fits every text
}

func parseRate(text string) (uint64, error) {
	if text == "max" {
		return MaxRate, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("want a whole number a second, or max")
	}
	if n > MaxRate {
		return 0, fmt.Errorf("over %d a second", MaxRate)
	}
	return n, nil
}

func parseShare(text string) (float64, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > 1 {
		return 0, fmt.Errorf("want a share from 0 to 1")
	}
	return f, nil
}

func parsePhases(text string) ([]Phase, error) {
	if n := strings.Count(text, "/") + 1; n > MaxPhases {
		return nil, fmt.Errorf("%d phases, at most %d are read", n, MaxPhases)
	}
	var phases []Phase
	for part := range strings.SplitSeq(text, "/") {
		rate, length, ok := strings.Cut(part, "@")
		if !ok {
			return nil, fmt.Errorf("phase %q is not RATE@LENGTH", part)
		}
		r, err := parseRate(rate)
		if err != nil {
			return nil, fmt.Errorf("phase %q: %w", part, err)
		}
		d, err := time.ParseDuration(length)
		if err != nil {
			return nil, fmt.Errorf("phase %q: want a length such as 10s or 500ms", part)
		}
		phases = append(phases, Phase{Rate: r, Length: d})
	}
	return phases, nil
}

// String writes the spec in the form that Parse reads, with every key of its
// kind. For a valid spec, Parse(s.String()) gives s again.
func (s Spec) String() string {
	var b strings.Builder
	b.WriteString(s.Kind.String())
	sep := ":"
	for _, key := range keysOf(s.Kind) {
		b.WriteString(sep + key + "=" + s.get(key))
		sep = ","
	}
	return b.String()
}

func (s Spec) get(key string) string {
	switch key {
	case "size":
		return formatSize(s.Size)
	case "rate":
		return strconv.FormatUint(s.Rate, 10)
	case "writes":
		return strconv.FormatUint(s.Writes, 10)
	case "hot":
		return strconv.FormatFloat(s.Hot, 'g', -1, 64)
	case "bias":
		return strconv.FormatFloat(s.Bias, 'g', -1, 64)
	}
	parts := make([]string, len(s.Phases))
	for i, p := range s.Phases {
		parts[i] = fmt.Sprintf("%d@%v", p.Rate, p.Length)
	}
	return strings.Join(parts, "/")
}

func formatSize(n int64) string {
	for i := len(units) - 2; i >= 0; i-- {
		if u := units[i]; n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}
