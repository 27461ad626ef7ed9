package main

import (
	"encoding/json"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func reportText(r migrate.Report, width int) string {
	b, _ := json.MarshalIndent(r, "", "  ")
	return string(b) + "\n"
}
