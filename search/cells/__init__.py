"""The search for the cells of a network: BNAS, DARTS, SNAS, GDAS."""
