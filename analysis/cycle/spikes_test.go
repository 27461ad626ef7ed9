package cycle

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Rare values without bound that come at random: two or three of them at equal distances are no cycle.
func TestDetectIsNotFooledByAFewHighValues(t *testing.T) {
	wrong := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 9))
		s := sample.Series{Step: time.Second, Values: make([]float64, 300+r.IntN(2000))}
		for i := range s.Values {
			s.Values[i] = 0.05 * r.NormFloat64()
			if r.Float64() < 0.01 {
				s.Values[i] += math.Pow(r.Float64(), -1)
			}
		}
		if found, err := Detect(s, Options{}); err != nil || len(found.Cycles) > 0 {
			wrong++
		}
	}
	t.Logf("%d of 60 called cyclic", wrong)
	if wrong > 1 {
		t.Error("that is too many")
	}
}
