package bench

import (
	"strings"
	"testing"
)

func TestAWayBackIsHeldAgainstTheWayThere(t *testing.T) {
	run := Run{Figures: Figures{LinkBytes: ptr(40 << 20)}}
	if run.returned(nil); run.ReturnPart != nil {
		t.Errorf("a run without a stay is %v of nothing", *run.ReturnPart)
	}
	if run.returned(ptr(640 << 20)); run.ReturnPart == nil || *run.ReturnPart != 0.0625 || *run.FirstBytes != 640<<20 {
		t.Errorf("40 of 640 MiB: %+v", run.Figures)
	}
	stay := []Work{{Workload: "uniform", Pages: 1}}
	r := diskResult(
		diskRow(Row{Name: "little", Engine: "nbd", Strategy: "hybrid", Stay: stay}, Figures{ReturnPart: ptr(0.05)}),
		diskRow(Row{Name: "much", Engine: "nbd", Strategy: "hybrid", Stay: stay}, Figures{ReturnPart: ptr(0.09)}),
	)
	for _, b := range r.Bars {
		if b.ID == "return" && (b.Value == nil || *b.Value != 0.09 || b.Detail != "much" || b.Verdict() != "missed") {
			t.Errorf("the bar: %+v", b)
		}
	}
	r.Scenarios[0].Scenario.Rows = []Row{r.Scenarios[0].Cells[0].Rows[0].Row}
	if text := r.Text(); !strings.Contains(text, "THERE MiB") || !strings.Contains(text, "BACK %") {
		t.Errorf("nothing of the way back in\n%s", text)
	}
}

func TestAStayHasToEnd(t *testing.T) {
	for _, w := range []Work{{Workload: "uniform"}, {Workload: "what", Pages: 1}, {Workload: "idle", Blocks: maxWork + 1}} {
		s, err := Load("return")
		if err != nil {
			t.Fatal(err)
		}
		if s.Rows[0].Stay = append(s.Rows[0].Stay, w); s.check() == nil {
			t.Errorf("%+v is accepted", w)
		}
	}
}
