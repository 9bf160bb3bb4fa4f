"""What to train: fields, YAML with lines, mistakes, variants."""
