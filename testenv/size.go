package testenv

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeUnits are the endings of a size; a plain number is bytes.
var sizeUnits = []struct {
	name  string
	shift uint
}{{"kib", 10}, {"mib", 20}, {"gib", 30}, {"tib", 40}, {"k", 10}, {"m", 20}, {"g", 30}, {"t", 40}, {"b", 0}}

// ParseSize reads a size such as "512MiB", "1G" or "65536" as bytes. All units are
// powers of 1024.
func ParseSize(text string) (int64, error) {
	number, shift := strings.ToLower(strings.TrimSpace(text)), uint(0)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, shift = rest, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 63)
	if err != nil || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("size %q is not one such as 512MiB, 1GiB or 65536", text)
	}
	return int64(n << shift), nil
}
