package main

import (
	"fmt"
	"os"
	"regexp"
)

// testFunc matches the head of a test function.
var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// testsIn returns the names of the tests declared in files.
func testsIn(files []string) ([]string, error) {
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("look for tests: %w", err)
		}
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	return names, nil
}
