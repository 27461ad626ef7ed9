package main

import (
	"errors"
	"os"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestEmitterNeverBlocks: a watcher that does not read holds nothing up, and once it reads it gets the end.
func TestEmitterNeverBlocks(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	e := newEmitter(w)
	note := make([]byte, 4096)
	for range 10_000 { // far more than pipe and queue hold
		e.emit(line{Progress: &migrate.Progress{Migration: "m", Phase: migrate.PhaseCopying, Owner: migrate.OwnerSource, Note: string(note)}})
	}
	e.emit(line{End: &end{Code: 4}})
	type result struct {
		end *end
		err error
		n   int
	}
	got := make(chan result, 1)
	go func() {
		var res result
		res.end, res.err = readLines(r, func(line) { res.n++ })
		got <- res
	}()
	e.close()
	res := <-got
	if res.err != nil || res.end.Code != 4 || res.n == 0 {
		t.Errorf("%d lines, end %+v, %v", res.n, res.end, res.err)
	}
}

// TestEmitterSurvivesAReaderThatIsGone and a coordinator that dies is told from one that ends.
func TestEmitterSurvivesAReaderThatIsGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	e := newEmitter(w)
	for range 1000 {
		e.emit(line{Progress: &migrate.Progress{Phase: migrate.PhaseCopying, Owner: migrate.OwnerSource}})
	}
	e.close()

	r, w, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.Close()
	if _, err := readLines(r, func(line) {}); !errors.Is(err, errCut) {
		t.Errorf("a pipe without an end gives %v", err)
	}
}
