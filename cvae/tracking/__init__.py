"""The tracking store: the only place that knows MLflow."""
