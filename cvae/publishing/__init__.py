"""results/: publish what is finished, verify what is published."""
