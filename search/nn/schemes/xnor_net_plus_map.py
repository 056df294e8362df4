"""XNOR-Net++, form 2: a learned scale for every value of the output; see `xnor_net_plus`."""

from bnas_deploy.search.nn.schemes.xnor_net_plus import XnorNetPlusMap

SCHEME = XnorNetPlusMap()
