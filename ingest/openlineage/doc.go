// Package openlineage reads run events of OpenLineage (OpenLineage 2-0-2): what
// Airflow, Spark, Flink, dbt and others say of a job while it runs.
//
// The events of a run add up: whatever order they come in, and however often,
// the same events make the same step. Nobody signs an event, so that a step made
// of them is claimed. The server receives events (package server); `retrace
// record` reads them from a file.
package openlineage
