"""Runs as a table: from their folders, and from MLflow where it is named."""
