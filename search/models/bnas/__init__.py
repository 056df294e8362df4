"""The networks of BNAS v2."""
