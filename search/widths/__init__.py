"""The search for the widths of a network: DMS, differentiable dimension search."""
