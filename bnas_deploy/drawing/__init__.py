"""Pictures: of cells, and of what a search did. They need matplotlib, which comes with the extra `train`."""
