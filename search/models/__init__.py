"""Networks that can be built by name."""
