//go:build !race

package postcopy_test

const raced = false
