package link

import (
	"strings"
	"testing"
	"time"
)

func TestParseSpec(t *testing.T) {
	for text, want := range map[string]Spec{
		"1gbit":                       {Rate: 1e9},
		"unlimited":                   {},
		"100mbit,delay=10ms":          {Rate: 1e8, Delay: 10 * time.Millisecond},
		"2.5Gbit, loss=0.1%":          {Rate: 25e8, Loss: 0.001},
		"unlimited,loss=0.5,delay=1s": {Delay: time.Second, Loss: 0.5},
		"64kbit,seed=7,loss=100%":     {Rate: 64000, Seed: 7, Loss: 1},
		"64000bit":                    {Rate: 64000},
	} {
		got, err := ParseSpec(text)
		if err != nil || got != want {
			t.Errorf("ParseSpec(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestParseSpecErrorsNameThePart(t *testing.T) {
	for text, want := range map[string]string{
		"":                          `rate "" has no unit`,
		"1000":                      "has no unit",
		"fastmbit":                  `"fast" is not a number`,
		"nanmbit":                   "is not a number",
		"-1gbit":                    "outside",
		"1kbit":                     "outside 64kbit to 400gbit",
		"infgbit":                   "outside",
		"1gbit,":                    `unknown part ""`,
		"1gbit,jitter=1ms":          `unknown part "jitter"`,
		"1gbit,delay=":              "not a duration",
		"1gbit,delay=10":            "not a duration",
		"1gbit,delay=-1ms":          "outside",
		"1gbit,delay=11s":           "outside",
		"1gbit,loss=":               "loss: it is empty",
		"1gbit,loss=2":              "outside",
		"1gbit,loss=NaN":            "not a percentage",
		"1gbit,loss=1%,loss=2%":     "loss is given twice",
		"1gbit,seed=-1":             "not a whole number",
		strings.Repeat("1", 300):    "bytes long",
		"1gbit delay=10ms":          "has no unit",
		"1gbit,delay=10ms,loss=x%%": "not a percentage",
	} {
		_, err := ParseSpec(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSpec(%q): error %v does not say %q", text, err, want)
		}
	}
}

func TestSpecBucket(t *testing.T) {
	if _, ok := (Spec{}).Bucket(); ok {
		t.Error("a link without a limit has a token bucket")
	}
	b, _ := Spec{Rate: 1e9}.Bucket()
	if want := (Bucket{BytesPerSecond: 125e6, Burst: 125000, Queue: 1250000}); b != want {
		t.Errorf("1gbit: got %+v, want %+v", b, want)
	}
	b, _ = Spec{Rate: MinRate}.Bucket()
	if b.Burst < 65536 || b.Queue < b.Burst {
		t.Errorf("slowest link cannot pass an offload frame: %+v", b)
	}
	b, _ = Spec{Rate: MaxRate}.Bucket()
	if b.Queue != 256<<20 {
		t.Errorf("fastest link: queue %d is not bounded", b.Queue)
	}
}

func TestSpecValidate(t *testing.T) {
	if err := (Spec{Rate: 1e9, Loss: 0.25}).Validate(); err != nil {
		t.Errorf("valid spec refused: %v", err)
	}
	for _, s := range []Spec{{Rate: 1}, {Delay: -1}, {Loss: -0.1}, {Loss: 1.5}} {
		if s.Validate() == nil {
			t.Errorf("%+v is accepted", s)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"1gbit", "unlimited,loss=0.1%", "100mbit,delay=10ms,loss=1e-3,seed=9", "1gbit,,", "=,="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSpec(text)
		if err != nil {
			return
		}
		if s.Loss < 0 || s.Loss > 1 || s.Delay < 0 || s.Delay > MaxDelay || s.Rate > MaxRate {
			t.Fatalf("%q: out of bounds: %+v", text, s)
		}
		again, err := ParseSpec(s.String())
		if err != nil || again != s {
			t.Fatalf("%q: %+v is written as %q, which reads as %+v, %v", text, s, s, again, err)
		}
	})
}
