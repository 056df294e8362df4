"""XNOR-Net++, form 4: learned scales per output channel, per row and per column; see `xnor_net_plus`."""

from bnas_deploy.search.nn.schemes.xnor_net_plus import AXES

SCHEME = AXES
