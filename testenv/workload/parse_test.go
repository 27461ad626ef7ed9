package workload

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseFillsInTheDocumentedDefaults(t *testing.T) {
	tests := []struct {
		text string
		want Spec
	}{
		{"idle", Spec{Kind: Idle, Size: 128 << 20}},
		{"uniform", Spec{Kind: Uniform, Size: 128 << 20, Rate: 5000}},
		{"hotset", Spec{Kind: HotSet, Size: 128 << 20, Rate: 5000, Hot: 0.1, Bias: 0.9}},
		{"sequential:rate=max", Spec{Kind: Sequential, Size: 128 << 20, Rate: MaxRate}},
		{"cycle:rate=7", Spec{Kind: Cycle, Size: 128 << 20, Rate: 7, Hot: 1,
			Phases: []Phase{{7, 10 * time.Second}, {0, 10 * time.Second}}}},
		{"cycle:phases=20000@5s/10@500ms", Spec{Kind: Cycle, Size: 128 << 20, Rate: 5000, Hot: 1,
			Phases: []Phase{{20000, 5 * time.Second}, {10, 500 * time.Millisecond}}}},
		{"blockio:size=8KiB,rate=3", Spec{Kind: BlockIO, Size: 8192, Rate: 3}},
		{"mixed:hot=0.5,writes=9", Spec{Kind: Mixed, Size: 128 << 20, Rate: 5000, Hot: 0.5, Bias: 0.9, Writes: 9}},
		{"hotset:size=1GiB,rate=20000", Spec{Kind: HotSet, Size: 1 << 30, Rate: 20000, Hot: 0.1, Bias: 0.9}},
		{"uniform:size=4096", Spec{Kind: Uniform, Size: 4096, Rate: 5000}},
	}
	for _, tt := range tests {
		got, err := Parse(tt.text)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.text, err)
			continue
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", tt.text, d)
		}
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	tests := []struct{ text, says string }{
		{"", `unknown kind ""`},
		{"invalid", "use one of idle"},
		{"busy:rate=1", `unknown kind "busy"`},
		{"uniform:", "is not key=value"},
		{"uniform:rate", "is not key=value"},
		{"uniform:rate=1,rate=2", "given twice"},
		{"uniform:hot=0.1", "takes size, rate"},
		{"idle:rate=1", "takes size"},
		{"uniform:rate=-1", "whole number"},
		{"uniform:rate=99999999999", "over 10000000"},
		{"uniform:size=5000", "whole pages"},
		{"uniform:size=0", "whole pages"},
		{"uniform:size=12XiB", "want bytes"},
		{"uniform:size=99999999TiB", "over"},
		{"hotset:hot=0", "over 0"},
		{"hotset:hot=NaN", "share"},
		{"hotset:bias=1.5", "share"},
		{"cycle:phases=5", "RATE@LENGTH"},
		{"cycle:phases=5@", "want a length"},
		{"cycle:phases=5@0s", "length must be over 0"},
		{"cycle:phases=5@-1s", "length must be over 0"},
		{"cycle:phases=" + strings.Repeat("1@1s/", 64) + "1@1s", "65 phases"},
		{"uniform:rate=" + strings.Repeat("1", 2000), "bytes of text"},
	}
	for _, tt := range tests {
		_, err := Parse(tt.text)
		if !errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("Parse(%.40q) = %v, want ErrSpec saying %q", tt.text, err, tt.says)
		}
	}
}

func TestValidateRefusesValuesOfOtherKinds(t *testing.T) {
	for _, s := range []Spec{
		{},
		{Kind: 200, Size: PageSize},
		{Kind: Uniform, Size: PageSize, Writes: 1},
		{Kind: Uniform, Size: PageSize, Hot: 0.1},
		{Kind: Uniform, Size: PageSize, Phases: []Phase{{1, 1}}},
		{Kind: Uniform, Size: PageSize, Rate: MaxRate + 1},
		{Kind: Cycle, Size: PageSize, Hot: 1},
	} {
		if err := s.Validate(); !errors.Is(err, ErrSpec) {
			t.Errorf("Validate(%+v) = %v, want ErrSpec", s, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"idle", "hotset:size=128MiB,rate=20000,hot=0.2", "cycle:phases=1@1s/2@2ms",
		"mixed:writes=max", "blockio:rate=1", "uniform:size=1TiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrSpec) {
				t.Fatalf("error does not wrap ErrSpec: %v", err)
			}
			return
		}
		again, err := Parse(s.String())
		if err != nil {
			t.Fatalf("%q reads, but written back as %q it does not: %v", text, s, err)
		}
		if d := cmp.Diff(s, again); d != "" {
			t.Fatalf("%q written back as %q changed:\n%s", text, s, d)
		}
		if _, err := NewPlan(s, 8, []uint64{8}, 1); err != nil {
			t.Fatalf("%q is valid and cannot be planned: %v", text, err)
		}
	})
}
