package forecast

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var hybrid = Way{EngineNBD, StrategyHybrid}

func costOf(duration float64) Cost {
	return Cost{Way: hybrid, Duration: spanOf(Range{duration * 0.95, duration, duration * 1.05}), Downtime: spanOf(Range{0.02, 0.03, 0.04}), Bytes: Range{90, 100, 110}}
}

func TestNoPastChangesNothing(t *testing.T) {
	if got := Correct(costOf(10), []Past{{Way: Way{EngineNative, StrategyPrecopy}, Predicted: Point{Duration: 1}, Actual: Point{Duration: 9}}}); got != costOf(10) {
		t.Errorf("%+v", got)
	}
}

func TestFewRunsAreTrustedLittleAndManyMuch(t *testing.T) {
	past := []Past{PastOf(costOf(10), 20*time.Second, 60*time.Millisecond, 100)}
	few := Correct(costOf(10), past).Duration.Expected.Seconds()
	for range 30 {
		past = append(past, past[0])
	}
	many := Correct(costOf(10), past)
	if few < 10.5 || few > 14 || many.Duration.Expected.Seconds() < 18 || many.Downtime.Expected < 54*time.Millisecond || math.Abs(many.Bytes.Expected-100) > 1 {
		t.Errorf("%.1f s after one run of twice as long, %+v after many", few, many)
	}
}

func TestOneRunThatWentAstrayChangesLittle(t *testing.T) {
	var past []Past
	for range 9 {
		past = append(past, PastOf(costOf(10), 11*time.Second, 30*time.Millisecond, 100))
	}
	before := Correct(costOf(10), past).Duration.Expected
	after := Correct(costOf(10), append(past, PastOf(costOf(10), 1000*time.Second, time.Minute, 1e6))).Duration.Expected
	if math.Abs(after.Seconds()-before.Seconds()) > 0.5 {
		t.Errorf("%s, then %s", before, after)
	}
}

func TestCorrectedRangesHoldNineInTen(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	for _, runs := range []int{3, 10, 40} {
		for _, spread := range []float64{0.05, 0.2, 0.5} {
			inside := 0
			const all = 500
			for range all {
				bias := math.Exp(0.3 * r.NormFloat64())
				actual := func() time.Duration { return seconds(10 * bias * math.Exp(spread*r.NormFloat64())) }
				var past []Past
				for range runs {
					past = append(past, PastOf(costOf(10), actual(), 0, 0))
				}
				c, d := Correct(costOf(10), past), actual()
				if d >= c.Duration.Low && d <= c.Duration.High {
					inside++
				}
			}
			t.Logf("%d runs that stray by %.0f %%: %.0f %% inside", runs, spread*100, 100*float64(inside)/all)
			if share := float64(inside) / all; share < 0.84 && runs >= 10 || share < 0.72 {
				t.Errorf("%d runs that stray by %.0f %%: %.0f %% inside", runs, spread*100, share*100)
			}
		}
	}
}
