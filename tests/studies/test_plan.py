"""Plans of every study at the sizes that nobody trains in a test: MNIST's images at small, CIFAR's at paper."""

import pytest
import torch

from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.widths.config import WidthSearchConfig
from bnas_deploy.studies.catalogue import STUDIES
from bnas_deploy.studies.plan import Plan, plan
from bnas_deploy.studies.study import PAPER, SMALL, Study
from bnas_deploy.studies.trials import SearchTrial, Training


def images(channels: int, side: int, count: int) -> InMemoryDataSet:
    about = DataDescription("zeros", tuple("0123456789"), channels, (side, side), (0.5,) * channels, (0.5,) * channels)
    parts = [
        Images(torch.zeros(1, channels, side, side, dtype=torch.uint8).expand(n, -1, -1, -1), torch.arange(n) % 10)
        for n in (count, 10)
    ]
    return InMemoryDataSet(about, *parts)


@pytest.fixture(scope="module")
def cifar() -> InMemoryDataSet:
    return images(3, 32, 10_000)


@pytest.fixture(scope="module")
def mnist() -> InMemoryDataSet:
    return images(1, 28, 2000)


def refusals(planned: Plan) -> list[tuple[str, str]]:
    return [(row.row.name, row.refusal) for row in planned.rows if row.refusal]


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_row_of_the_papers_budget_has_trials(study: Study, cifar: InMemoryDataSet) -> None:
    planned = plan(study, study.budget(PAPER), "cifar10:FOLDER", cifar)
    assert refusals(planned) == []


@pytest.mark.parametrize(
    "name", sorted(STUDIES.keys() - {"backbones", "schemes"})
)  # which count operations for seconds
def test_every_row_of_the_small_budget_has_trials(name: str, mnist: InMemoryDataSet) -> None:
    assert refusals(plan(STUDIES[name], STUDIES[name].budget(SMALL), "idx:FOLDER", mnist)) == []


def test_the_papers_experiment_is_the_papers(cifar: InMemoryDataSet) -> None:
    def first(name: str, row: str) -> Training:
        planned = plan(STUDIES[name], STUDIES[name].budget(PAPER), "cifar10:FOLDER", cifar)
        return next(each.trials[0] for each in planned.rows if each.row.name == row)

    bnas = first("zeroise", "BNAS, Zeroise kept")
    assert (bnas.network.name, bnas.recipe.name, bnas.recipe.epochs) == ("BNAS-A", "cifar-standard", 600)
    search = bnas.after
    assert isinstance(search, SearchTrial)
    config = search.config
    assert isinstance(config, SearchConfig)
    assert (config.network.cells, config.network.channels, config.recipe.epochs) == (8, 16, 50)
    assert (config.diversity, config.diversity_epochs) == (1.0, pytest.approx(7.7))
    widths = first("widths", "DMS-B").after
    assert isinstance(widths, SearchTrial)
    assert isinstance(widths.config, WidthSearchConfig)
    assert (widths.config.goal.target, widths.config.epochs, widths.config.first_ratio) == (1.0, 250, 2.5)
