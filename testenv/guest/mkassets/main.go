// Command mkassets makes the files that the lab's guests boot from, out of a
// kernel package:
//
//	go run ./testenv/guest/mkassets -deb linux-image-….deb -out build/guest
//
// It installs nothing and writes only below -out.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/vmmigrate/vmmigrate/testenv/guest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkassets:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("mkassets", flag.ContinueOnError)
	deb := flags.String("deb", "", "kernel package `file` (linux-image-…-cloud-amd64)")
	out := flags.String("out", "build/guest", "`directory` for the assets")
	program := flags.String("init", "", "a built guest/init `file`; built here when empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *deb == "" || flags.NArg() > 0 {
		flags.Usage()
		return fmt.Errorf("-deb is required, and nothing beside the flags")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	_, err := guest.Make(ctx, guest.MakeConfig{Deb: *deb, Out: *out, Init: *program,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	return err
}
