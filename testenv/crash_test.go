package testenv

import "testing"

func TestCrashWords(t *testing.T) {
	const console = "[    1.0] Linux version 6.12\r\n" +
		"[   34.09] BUG: kernel NULL pointer dereference, address: 0000000000000200\r\n" +
		"[   34.12] #PF: supervisor instruction fetch in kernel mode\r\n" +
		"[   34.36] Kernel panic - not syncing: Fatal exception in interrupt\r\n"
	want := "[   34.09] BUG: kernel NULL pointer dereference, address: 0000000000000200; " +
		"[   34.36] Kernel panic - not syncing: Fatal exception in interrupt"
	if got := crashWords(console); got != want {
		t.Errorf("got %q", got)
	}
	if got := crashWords("[    1.0] Linux version 6.12\n[    2.0] debug: no bug\n"); got != "" {
		t.Errorf("of a guest that is well: %q", got)
	}
}
