"""Finished runs compared, drawn and reported; nothing here trains."""
