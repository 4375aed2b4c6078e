package schema

import _ "embed"

//go:embed schema.graphql
var graphQL string

// GraphQL is the schema of the API, schema.graphql: its manual as well.
func GraphQL() string { return graphQL }
