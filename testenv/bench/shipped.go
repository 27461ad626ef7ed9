package bench

import (
	"embed"
	"fmt"
	"os"
	"path"
	"strings"
)

//go:embed scenarios/*.json
var shipped embed.FS

// Shipped are the names of the scenarios that come with the program.
func Shipped() []string {
	entries, err := shipped.ReadDir("scenarios")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".json"))
	}
	return names
}

// Load reads a scenario from a file, or the shipped one of that name.
func Load(name string) (Scenario, error) {
	data, err := os.ReadFile(name)
	if err != nil && !strings.Contains(name, "/") {
		if own, ownErr := shipped.ReadFile(path.Join("scenarios", strings.TrimSuffix(name, ".json")+".json")); ownErr == nil {
			data, err = own, nil
		}
	}
	if err != nil {
		return Scenario{}, fmt.Errorf("%w; shipped scenarios are %s", err, strings.Join(Shipped(), ", "))
	}
	s, err := Parse(data)
	if err != nil {
		return Scenario{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}
