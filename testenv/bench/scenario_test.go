package bench

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

const plain = `{"schema":"vmmigrate.scenario/v1","name":"x","guest":{},"workloads":["idle"],
	"rows":[{"name":"r","engine":"native","strategy":"precopy"}]}`

func TestParseFillsInTheDefaults(t *testing.T) {
	s, err := Parse([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	if s.Hosts != Libvirt || s.Guest.Backing != "shared" || s.Guest.CPUs != 1 || s.Repetitions != 3 || s.Seed != 1 ||
		!reflect.DeepEqual(s.Links, []string{"unlimited"}) || s.Around != Duration(time.Second) || s.Limit != Duration(2*time.Minute) {
		t.Errorf("%+v", s)
	}
	again, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(again)
	if err != nil || !reflect.DeepEqual(back, s) {
		t.Errorf("written and read again: %+v, %v", back, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, change := range map[string][2]string{
		"an unknown field":       {`"guest":{}`, `"guest":{},"gest":{}`},
		"another schema":         {`scenario/v1`, `scenario/v2`},
		"a name for a path":      {`"name":"x"`, `"name":"../x"`},
		"something behind it":    {`"precopy"}]}`, `"precopy"}]} {}`},
		"no workload":            {`["idle"]`, `[]`},
		"a workload of nonsense": {`"idle"`, `"dance"`},
		"a link of nonsense":     {`"workloads"`, `"links":["fast"],"workloads"`},
		"too little memory":      {`"guest":{}`, `"guest":{"memory":"64MiB"}`},
		"a size of nonsense":     {`"guest":{}`, `"guest":{"pages":"some"}`},
		"an engine of nonsense":  {`"native"`, `"steam"`},
		"a strategy of nonsense": {`"precopy"`, `"auto"`},
		"a row twice":            {`"rows":[`, `"rows":[{"name":"r","engine":"nbd","strategy":"hybrid"},`},
		"a row without a name":   {`"name":"r"`, `"name":""`},
		"a time of nonsense":     {`"precopy"}`, `"precopy","max_downtime":"soon"}`},
		"a time too long":        {`"precopy"}`, `"precopy","max_downtime":"2h"}`},
		"repetitions below zero": {`"guest":{}`, `"guest":{},"repetitions":-1`},
		"hosts of nonsense":      {`"guest":{}`, `"guest":{},"hosts":"xen"`},
	} {
		text := strings.Replace(plain, change[0], change[1], 1)
		if text == plain {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrScenario) {
			t.Errorf("%s: %v, want ErrScenario", name, err)
		}
	}
	if _, err := Parse(make([]byte, maxScenario+1)); !errors.Is(err, ErrScenario) {
		t.Errorf("a file that is too long: %v", err)
	}
}

func TestShippedScenariosAreWell(t *testing.T) {
	names := Shipped()
	if len(names) < 5 {
		t.Errorf("shipped are %q", names)
	}
	for _, name := range names {
		s, err := Load(name)
		if err != nil || s.Name != name || s.Title == "" {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if _, err := Load("nothing"); err == nil || !strings.Contains(err.Error(), "dirty-rates") {
		t.Errorf("an unknown name: %v", err)
	}
	if _, err := Load("testdata/bench.json"); !errors.Is(err, ErrScenario) {
		t.Errorf("a file that is no scenario: %v", err)
	}
}

func TestRowsAreOptionsOfTheProgram(t *testing.T) {
	r := Row{Name: "all", Engine: "nbd", Strategy: "hybrid", Prepage: "bubble", MaxDowntime: Duration(10 * time.Millisecond),
		Parallel: 4, Preempt: true, Args: []string{"--max-duration", "30s"}}
	want := "--engine nbd --strategy hybrid --prepage bubble --max-downtime 10ms --parallel-connections 4 --postcopy-preempt --max-duration 30s"
	if got := strings.Join(r.arguments(), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := strings.Join((Row{Engine: "native", Strategy: "precopy"}).arguments(), " "); got != "--engine native --strategy precopy" {
		t.Errorf("a row of nothing else: %s", got)
	}
}

// TestAGuestHasRoomForTheLargestWorkload: the region is set aside when it boots.
func TestAGuestHasRoomForTheLargestWorkload(t *testing.T) {
	s, err := Parse([]byte(strings.Replace(plain, `["idle"]`, `["idle:size=1MiB","hotset:size=64MiB","uniform:size=2MiB"]`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if g, err := s.guest("x"); err != nil || g.Workload != "hotset:size=64MiB" {
		t.Errorf("%+v, %v", g, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(plain))
	for _, name := range Shipped() {
		if b, err := shipped.ReadFile("scenarios/" + name + ".json"); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		if len(s.Rows) == 0 || len(s.Workloads)*len(s.Links) > maxCells || s.Repetitions > maxRepetitions || s.check() != nil {
			t.Errorf("took %+v", s)
		}
	})
}

func FuzzParseMicro(f *testing.F) {
	f.Add("pkg: x\nBenchmarkFaults/ours-2 \t 100 \t 12.5 ns/op \t 3 faults/s\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseMicro(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, m := range list {
			if !strings.HasPrefix(m.Name, "Benchmark") || m.Values == nil {
				t.Errorf("%+v", m)
			}
		}
	})
}
