"""Figures with their captions, in one style."""
