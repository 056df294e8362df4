"""What an export is told about a model besides what it finds out."""

from dataclasses import dataclass, field
from typing import Any

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.training.training_record import TrainingRecord


@dataclass(frozen=True)
class Description:
    """What the manifest and the model card say about a model besides what the export finds out.

    Attributes:
        network: for people; the entry "name" is what it is called.
        labels: the class of logit i is labels[i]; None of a network that is no classifier.
        preprocessing: how an image becomes an input; None if no input is an image.
        metrics: what was measured in training; the model card tells `test_accuracy`, a share of 1, and `epoch`.
        data: name of the data set, for the model card.
        config: of a network that is built by name, for the model card.
        training: how it was trained, for the model card.
        doubt: a sentence for the report and the model card on where the weights come from, if that is doubtful.
    """

    network: dict[str, Any]
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    config: ModelConfig | None = None
    training: TrainingRecord | None = None
    doubt: str = ""
