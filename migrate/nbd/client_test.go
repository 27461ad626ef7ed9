package nbd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

// What is read is what is there, by many readers over several connections, with holes that are zero and were not sent.
func TestReadsOfManyAreRight(t *testing.T) {
	data := pattern(3<<20, 1)
	for name, x := range map[string]Export{
		"plain":  {Name: "d", Backend: &memory{p: data}},
		"sparse": {Name: "d", Backend: sparse{&memory{p: data}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, ClientConfig{Dial: serve(t, x), Export: "d", Conns: 3, Window: 1 << 20})
			var wg sync.WaitGroup
			for seed := range uint64(8) {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(seed, 2))
					for range 15 {
						off := rng.Int64N(int64(len(data)))
						n := 1 + rng.Int64N(min(int64(len(data))-off, 1<<17))
						checkRead(t, c, data, off, n)
					}
				})
			}
			wg.Wait()
			checkRead(t, c, data, 0, int64(len(data)))
			if err := c.ReadAt(t.Context(), make([]byte, 2), int64(len(data)-1)); !errors.Is(err, EINVAL) {
				t.Errorf("a read behind the end: %v", err)
			}
		})
	}
}

func checkRead(t *testing.T, c *Client, data []byte, off, n int64) {
	t.Helper()
	p := bytes.Repeat([]byte{0xaa}, int(n))
	holes, err := c.ReadSparse(t.Context(), p, off)
	if err != nil {
		t.Errorf("read of %d at %d: %v", n, off, err)
		return
	}
	if !bytes.Equal(p, data[off:off+n]) {
		t.Errorf("read of %d at %d: other bytes", n, off)
	}
	for _, h := range holes {
		if bytes.Count(data[h.Offset:h.End()], []byte{0}) != int(h.Length) {
			t.Errorf("a hole %+v where there is data", h)
		}
	}
}

// Zero pages are told, and not sent.
func TestHolesAreNotSent(t *testing.T) {
	data := make([]byte, 1<<20)
	copy(data[1<<19:], pattern(memPage, 3))
	c := open(t, ClientConfig{Dial: serve(t, Export{Backend: sparse{&memory{p: data}}})})
	p := make([]byte, len(data))
	before := c.BytesIn()
	holes, err := c.ReadSparse(t.Context(), p, 0)
	if err != nil || len(holes) != 2 || holes[0].Offset != 0 || holes[0].Length != 1<<19 || holes[1].Offset != 1<<19+memPage {
		t.Fatalf("holes %v, %v", holes, err)
	}
	if came := c.BytesIn() - before; came > memPage+200 {
		t.Errorf("%d bytes came for one page of data", came)
	}
	if !bytes.Equal(p, data) {
		t.Error("other bytes")
	}
}
