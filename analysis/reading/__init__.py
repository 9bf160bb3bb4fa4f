"""Runs as a table, from a store or from folders."""
