package migrate

import "time"

// Predict says what each strategy would take, from the first figures of a job that tell bandwidth and dirty rate. It is a
// plain model, meant to be compared with what came:
//
//	precopy   rounds of remaining ÷ bandwidth, each leaving behind what the guest wrote meanwhile (at most all of its
//	          RAM), until the rest fits the accepted pause, or 30 rounds; the pause is rest ÷ bandwidth
//	postcopy  all RAM once; its pause does not depend on these figures and is left out
//	hybrid    one round, then what was written meanwhile once more; its pause is left out, too
//
// The map is nil while bandwidth or RAM is not known. Strategies that need a dirty rate are left out without one.
func Predict(s Stats, ram int64, p Params) map[Strategy]ReportPrediction {
	total := value(sane(s.RAMTotal))
	if total == 0 {
		total = ram
	}
	bw := float64(value(sane(s.Bandwidth)))
	if total <= 0 || bw < 1 {
		return nil
	}
	size := float64(total) + float64(value(sane(s.DiskTotal)))
	out := map[Strategy]ReportPrediction{StrategyPostcopy: {TotalMS: size / bw * 1000, SentBytes: clampInt(size)}}
	if sane(s.DirtyRate) == nil {
		return out
	}
	dirty := float64(*s.DirtyRate)
	again := min(dirty*size/bw, float64(total))
	out[StrategyHybrid] = ReportPrediction{TotalMS: (size + again) / bw * 1000, SentBytes: clampInt(size + again)}
	out[StrategyPrecopy] = predictPrecopy(size, float64(total), bw, dirty, p.MaxDowntime)
	return out
}

func predictPrecopy(left, ram, bw, dirty float64, pause time.Duration) ReportPrediction {
	if pause <= 0 {
		pause = 300 * time.Millisecond
	}
	fits := bw * pause.Seconds()
	sent := 0.0
	for range 30 {
		sent += left
		left = min(dirty*left/bw, ram)
		if left <= fits {
			break
		}
	}
	return ReportPrediction{TotalMS: (sent + left) / bw * 1000, DowntimeMS: pointer(left / bw * 1000), SentBytes: clampInt(sent + left)}
}
