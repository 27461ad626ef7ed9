package qmp

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

type inner struct {
	Need int  `json:"need"`
	May  *int `json:"may"`
}

type outer struct {
	Name  string          `json:"name"`
	Maybe string          `json:"maybe,omitempty"`
	In    inner           `json:"in"`
	Ptr   *inner          `json:"ptr"`
	List  []inner         `json:"list"`
	Deep  [][]inner       `json:"deep,omitempty"`
	Raw   json.RawMessage `json:"raw,omitempty"`
	Plain []int           `json:"plain,omitempty"`
	inner
}

func TestDecodeRequired(t *testing.T) {
	const full = `{"name":"n","in":{"need":0},"list":[{"need":0}],"need":1}`
	tests := []struct{ name, in, missing string }{
		{"all there", full, ""},
		{"optional ones", `{"name":"n","in":{"need":0,"may":1},"list":[],"need":1,"ptr":null,"maybe":"","raw":{"x":1},"plain":[1]}`, ""},
		{"pointer present", full[:len(full)-1] + `,"ptr":{"need":1}}`, ""},
		{"top", `{"in":{"need":0},"list":[],"need":1}`, `"name"`},
		{"embedded", `{"name":"n","in":{"need":0},"list":[]}`, `"need"`},
		{"nested", `{"name":"n","in":{},"list":[],"need":1}`, `"in.need"`},
		{"behind a pointer", full[:len(full)-1] + `,"ptr":{}}`, `"ptr.need"`},
		{"in a list", `{"name":"n","in":{"need":0},"list":[{"need":0},{}],"need":1}`, `"list.1.need"`},
		{"in a list of lists", full[:len(full)-1] + `,"deep":[[],[{}]]}`, `"deep.1.0.need"`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var out outer
			err := decodeRequired("query-x", json.RawMessage(tc.in), &out)
			if (tc.missing == "") != (err == nil) {
				t.Fatalf("got %v, want missing %q", err, tc.missing)
			}
			if err != nil && (!errors.Is(err, errMissing) || !strings.Contains(err.Error(), tc.missing)) {
				t.Errorf("got %v, want missing %s", err, tc.missing)
			}
		})
	}
	var out []inner
	if err := decodeRequired("query-x", json.RawMessage(`[{"need":1},{"may":1}]`), &out); !errors.Is(err, errMissing) {
		t.Errorf("list: %v", err)
	}
}
