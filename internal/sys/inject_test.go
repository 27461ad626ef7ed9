package sys

import (
	"slices"
	"testing"
)

func TestByQuiet(t *testing.T) {
	cases := map[string]struct {
		threads []thread
		want    []int
	}{
		"QEMU with named threads": {[]thread{
			{tid: 10, comm: "qemu-system-x86", state: 'S', leader: true},
			{tid: 12, comm: "IO mon_iothread", state: 'S'},
			{tid: 13, comm: "CPU 0/KVM", state: 'S', inIoctl: true},
			{tid: 14, comm: "CPU 1/TCG", state: 'R'},
			{tid: 15, comm: "worker", state: 'S'},
			{tid: 16, comm: "call_rcu", state: 'S'},
		}, []int{16, 12, 15, 10, 13, 14}},
		"QEMU without, with numbers that started over": {[]thread{
			{tid: 30000, comm: "qemu", state: 'S', leader: true},
			{tid: 30001, comm: "qemu", state: 'S'}, // call_rcu
			{tid: 12, comm: "qemu", state: 'R'},
			{tid: 13, comm: "qemu", state: 'R', inIoctl: true},
			{tid: 14, comm: "qemu", state: 'S'},
		}, []int{30001, 14, 12, 30000, 13}},
		"what sleeps deeply comes last, what ended not at all": {[]thread{
			{tid: 1, comm: "a", state: 'D'}, {tid: 2, comm: "a", state: 'Z'}, {tid: 3, comm: "a", state: 'X'},
			{tid: 4, comm: "CPU 0/TCG", state: 'R'},
		}, []int{4, 1}},
		"one thread": {[]thread{{tid: 7, leader: true, state: 'R'}}, []int{7}},
		"none":       {nil, nil},
	}
	for name, tc := range cases {
		var got []int
		for _, th := range byQuiet(tc.threads) {
			got = append(got, th.tid)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestParseState(t *testing.T) {
	for text, want := range map[string]byte{
		"12 (qemu) S 1 2": 'S', "12 (a) R) D 1": 'D', "": 0, "12 (x)": 0, "12 (x) ": 0, "12 (x)S 1": 0,
	} {
		if got, ok := parseState(text); got != want || ok != (want != 0) {
			t.Errorf("%q: %c, %t; want %c", text, got, ok, want)
		}
	}
}

func TestParseCall(t *testing.T) {
	for text, want := range map[string]int{"202 0x7f 0x80\n": 202, "running\n": -1, "": -1, "-1 0x7ffd 0x7f\n": -1} {
		if got := parseCall(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
