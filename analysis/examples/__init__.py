"""Reports of one's own, to copy from."""
