"""Settings, significance, tables."""
