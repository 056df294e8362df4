"""BinaryNet (Courbariaux et al. 2016): signs on both sides, and no scale."""

from bnas_deploy.search.nn.scheme import Scheme

SCHEME = Scheme()
