"""A trained network on images: how often it is right, and what it says."""
