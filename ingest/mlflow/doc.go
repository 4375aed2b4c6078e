// Package mlflow is all there is to know of MLflow: runs of its tracking server,
// and the versions and aliases of its model registry, by its REST API
// (/api/2.0/mlflow, MLflow 2 and 3).
//
// A run that ended is a step (schema.StepBuildType) with what was logged of it:
// parameters, metrics, the commit, datasets and models by where they lie. MLflow
// states no digest that could be checked, so that all of it is known by location;
// the kind that watches the store hashes what lies there.
package mlflow
