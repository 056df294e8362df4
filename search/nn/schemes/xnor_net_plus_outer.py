"""XNOR-Net++, form 3: a learned scale per output channel, times one per pixel; see `xnor_net_plus`."""

from bnas_deploy.search.nn.schemes.xnor_net_plus import OUTER

SCHEME = OUTER
