package main

import (
	"context"
	"os"

	"github.com/vmmigrate/vmmigrate/testenv"
)

func main() {
	testenv.Init() // does not return in a helper process of the lab
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
