package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// A guest of which nothing was recorded is looked at, and each way to move it has its figures; nothing is changed.
func TestT4Plan(t *testing.T) {
	x := newBench(t).in(t)
	from := x.settle()
	args := []string{"plan", "-c", x.uris[from], guestName, x.uris[other(from)], "--copy-storage-all", "--measure", "4s", "--link", "1gbit"}
	var p planned
	if err := json.Unmarshal([]byte(x.ok(append(args, "-o", "json")...)), &p); err != nil {
		t.Fatal(err)
	}
	if p.Seen == 0 || p.RAM == 0 || p.Disks == 0 || p.Guess || p.Link != 125e6 || len(p.Ways) < 2 || p.Reason == "" || p.Wait || p.Start.After(time.Now().Add(time.Minute)) {
		t.Errorf("%+v", p)
	}
	for _, w := range append(p.Ways, p.Advised) {
		if d := w.DurationS; !(d.Low > 0 && d.Low <= d.Expected && d.Expected <= d.High) || w.Bytes.Expected <= 0 || w.DowntimeS.Expected <= 0 {
			t.Errorf("%+v", w)
		}
	}
	text := x.ok(args...)
	for line := range strings.Lines(text) {
		if len([]rune(strings.TrimSuffix(line, "\n"))) > 100 {
			t.Errorf("wider than 100 columns: %s", line)
		}
	}
	if !strings.Contains(text, "start now") {
		t.Error(text)
	}
	x.at(from)
}
