"""One run: its folder, its state, its records, its end."""
