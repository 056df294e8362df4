"""What the stages hand to each other: needs the standard library and numpy."""
