"""Training runs and their files."""
