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
// Disks that travel are sent once, at the bandwidth or at their own cap if that is lower, beside what is said of RAM.
//
// Pages that are known to be zero are left out of RAM: next to nothing is sent for them. The map is nil while bandwidth or
// RAM is not known. Strategies that need a dirty rate are left out without one; a rate of 0 is none, since QEMU says so
// until it has counted for a second, and a guest that runs writes something.
func Predict(s Stats, ram int64, p Params) map[Strategy]ReportPrediction {
	total := value(sane(s.RAMTotal))
	if total == 0 {
		total = ram
	}
	bw := float64(value(sane(s.Bandwidth)))
	if total <= 0 || bw < 1 {
		return nil
	}
	size := float64(sentOnce(s, total))
	out := map[Strategy]ReportPrediction{StrategyPostcopy: {ReportPoint: ReportPoint{TotalMS: size / bw * 1000, SentBytes: clampInt(size)}}}
	if value(sane(s.DirtyRate)) > 0 {
		dirty := float64(*s.DirtyRate)
		again := min(dirty*size/bw, float64(total))
		out[StrategyHybrid] = ReportPrediction{ReportPoint: ReportPoint{TotalMS: (size + again) / bw * 1000, SentBytes: clampInt(size + again)}}
		out[StrategyPrecopy] = predictPrecopy(size, float64(total), bw, dirty, p.MaxDowntime)
	}
	return withDisks(out, float64(value(sane(s.DiskTotal))), bw, p)
}

// withDisks adds what the disks take.
func withDisks(out map[Strategy]ReportPrediction, disks, bw float64, p Params) map[Strategy]ReportPrediction {
	if limit := float64(p.DiskCap()); limit > 0 {
		bw = min(bw, limit)
	}
	for name, v := range out {
		v.TotalMS += disks / bw * 1000
		v.SentBytes = clampInt(float64(v.SentBytes) + disks)
		out[name] = v
	}
	return out
}

// sentOnce is what one pass over the guest's RAM sends. Both kinds of pages are counted anew each time they are sent: the
// zero pages of later rounds must not hide what was seen to be sent.
func sentOnce(s Stats, total int64) int64 {
	page := value(sane(s.PageSize))
	zero, normal := clampInt(float64(value(sane(s.ZeroPages)))*float64(page)), clampInt(float64(value(sane(s.NormalPages)))*float64(page))
	return max(total-min(zero, total), min(normal, total), min(page, total))
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
	return ReportPrediction{ReportPoint: ReportPoint{TotalMS: (sent + left) / bw * 1000, DowntimeMS: pointer(left / bw * 1000), SentBytes: clampInt(sent + left)}}
}
