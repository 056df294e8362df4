"""Every study by name."""

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.studies.ablations import (
    DILATED,
    DIVERSITY,
    FLOAT_SEARCH,
    SEPARABLE,
    SKIP,
    TRANSFER,
    ZEROISE,
)
from bnas_deploy.studies.comparisons import BACKBONES, LAYERS, SCHEMES
from bnas_deploy.studies.study import Study
from bnas_deploy.studies.trainings import QUANTISATION, TRAINING, WIDTHS

STUDIES = {
    study.name: study
    for study in (
        LAYERS,
        QUANTISATION,
        ZEROISE,
        DIVERSITY,
        SKIP,
        DILATED,
        SEPARABLE,
        FLOAT_SEARCH,
        TRANSFER,
        TRAINING,
        BACKBONES,
        SCHEMES,
        WIDTHS,
    )
}
"""In the order of the list."""


def find_study(name: str) -> Study:
    """Return the study of a name, in any case.

    Raises:
        BnasError: there is none.
    """
    known = known_name(name, STUDIES)
    if known is None:
        raise BnasError(f"unknown study {name!r}; the studies are {', '.join(STUDIES)}{did_you_mean(name, STUDIES)}")
    return STUDIES[known]
