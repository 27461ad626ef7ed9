package sys

import "testing"

func TestAllows(t *testing.T) {
	tests := []struct {
		name string
		mode uint32
		uid  uint32
		gids []uint32
		want uint32
		ok   bool
	}{
		{"owner", 0o100600, 10, nil, 6, true},
		{"owner is not let in by other", 0o100007, 10, []uint32{20}, 4, false},
		{"group", 0o100060, 11, []uint32{3, 20}, 6, true},
		{"group lacks write", 0o100040, 11, []uint32{20}, 6, false},
		{"group is not let in by other", 0o100006, 11, []uint32{20}, 4, false},
		{"other", 0o020006, 11, []uint32{3}, 6, true},
		{"other refused", 0o020660, 11, nil, 4, false},
	}
	for _, tc := range tests {
		f := FileInfo{Mode: tc.mode, UID: 10, GID: 20}
		if got := f.Allows(tc.uid, tc.gids, tc.want); got != tc.ok {
			t.Errorf("%s: %t, want %t", tc.name, got, tc.ok)
		}
	}
}
