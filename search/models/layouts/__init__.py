"""How other projects store the weights of backbones, a module for each project."""
