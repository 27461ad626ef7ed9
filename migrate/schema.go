package migrate

import _ "embed" // the schemas are files

// The JSON schemas (draft 2020-12) of what scripts read.
var (
	//go:embed schema/report.json
	reportSchemaJSON string
	//go:embed schema/progress.json
	progressSchemaJSON string
)

// ReportJSONSchema is the JSON schema of a Report, ProgressJSONSchema that of one line of Progress.
func ReportJSONSchema() string { return reportSchemaJSON }

// ProgressJSONSchema is the JSON schema of one line of Progress.
func ProgressJSONSchema() string { return progressSchemaJSON }
