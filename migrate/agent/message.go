package agent

import "time"

// The messages of the service. What a message and a struct of the contract share is the struct itself.

type empty struct{}

// opened answers an Open: Handle names the end in all that follows, on this connection only.
type opened struct {
	Handle uint64 `json:"handle"`
	Addr   string `json:"addr,omitempty"`
	Held   Held   `json:"held,omitzero"`
}

// ofEnd asks something of an end.
type ofEnd struct {
	Handle uint64 `json:"handle"`
}

type harvested struct {
	Took    time.Duration `json:"took"`
	Tracker string        `json:"tracker"`
	set     [][]byte
}

func (m *harvested) parts() *[][]byte { return &m.set }

// fetching is a message about pages.
type fetching struct {
	Handle uint64 `json:"handle"`
	set    [][]byte
}

func (m *fetching) parts() *[][]byte { return &m.set }

// switching has the hot pages as its last part.
type switching struct {
	Handle  uint64 `json:"handle"`
	setAndH [][]byte
}

func (m *switching) parts() *[][]byte { return &m.setAndH }

type tuning struct {
	Handle    uint64 `json:"handle"`
	Bandwidth int64  `json:"bandwidth"`
	Paging    int64  `json:"paging"`
}

type closing struct {
	Handle  uint64 `json:"handle"`
	Abandon bool   `json:"abandon"`
}

// progressing is one message of a stream; the one with Done is the last, and its figures are the result.
type progressing struct {
	Progress Progress `json:"progress"`
	Done     bool     `json:"done"`
}
