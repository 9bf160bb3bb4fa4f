"""A finished or published run back as a model."""
