package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// heldCell has two runs that were forecast to take 2 s; the second one came in 4 s.
func heldCell(t *testing.T) Result {
	t.Helper()
	point := func(total float64) string {
		return fmt.Sprintf(`"total_ms":%g,"downtime_ms":30,"sent_bytes":1048576`, total)
	}
	rep := fmt.Sprintf(`{"strategy":"hybrid","predicted":{"hybrid":{%s,"low":{%s},"high":{%s},"model":{%s}}}}`, point(2000), point(1500), point(2500), point(1000))
	run := func(order int, total float64) Run {
		pause, sent := 30.0, 1048576.0
		return Run{Order: order, OK: true, Report: json.RawMessage(rep), Figures: Figures{TotalMS: &total, DowntimeMS: &pause, SentBytes: &sent}}
	}
	return Result{Cells: []Cell{{Workload: "idle", Link: "1gbit", Rows: []RowResult{{Row: Row{Name: "x"}, Runs: []Run{run(1, 2000), run(2, 4000)}}}}}}
}

func TestForecastsAreHeldAgainstWhatCame(t *testing.T) {
	s := heldCell(t)
	list := s.heldRuns()
	if len(list) != 2 || !list[0].first || list[1].first {
		t.Fatalf("%+v", list)
	}
	if f := list[0].figures[0]; !f.inside() || f.off() != 0 || f.modelOff() != 0.5 {
		t.Errorf("%+v", f)
	}
	if f := list[1].figures[0]; f.inside() || f.off() != 0.5 {
		t.Errorf("%+v", f)
	}
	text := s.forecastText()
	for _, want := range []string{"all runs (2)", "duration off by 25 %", "5.0 of ten inside", "together 8.3 of ten", "link known (1)", "4.00 s!"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if n := len([]rune(line)); strings.Contains(line, "→4.00") && n > textWidth+2 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	s.Cells[0].Rows[0].Runs[0].Report = json.RawMessage(`{"strategy":"hybrid"}`)
	if n := len(s.heldRuns()); n != 1 {
		t.Errorf("%d runs with a forecast", n)
	}
}

func TestAdviceIsHeldAgainstRandomStarts(t *testing.T) {
	at := func(total float64) RowResult {
		return RowResult{Runs: []Run{{OK: true, Figures: Figures{TotalMS: &total, SentBytes: &total}}}}
	}
	random, advised := at(1000), at(300)
	random.Row, advised.Row = Row{Name: "random", Within: 1}, Row{Name: "advised", Advised: true}
	c := Cell{Workload: "cycle", Link: "1gbit", Rows: []RowResult{random, advised}}
	for i := range c.Rows {
		c.Rows[i].Summary = summarize(c.Rows[i].Runs)
	}
	if text := c.adviceText(); !strings.Contains(text, "takes 70 % less, sends 70 % less, by medians") {
		t.Error(text)
	}
}
