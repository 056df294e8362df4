"""The search for cells: weights and alphas are trained in turns, then a genotype is read off.

A search lives in one folder (see `bnas_deploy.search.training.run` for how it is saved and resumed):

    genotype.json        of the epoch with the highest validation accuracy
    history.json         see `bnas_deploy.core.history`
    resume.safetensors   all that is needed to go on
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bnas_deploy.search.cells.checks import SearchError, check_images, check_step
from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.cells.objective import Diversity, Objective
from bnas_deploy.search.cells.result import SearchResult
from bnas_deploy.search.cells.search_run import SearchRun
from bnas_deploy.search.data.dataset import InMemoryDataSet
from bnas_deploy.search.training.acceleration import check_arithmetic, check_compiler, tf32
from bnas_deploy.search.training.listener import Listener
from bnas_deploy.search.training.processes import ALONE, Processes, check_shares
from bnas_deploy.search.training.resume import never


def search(
    data: InMemoryDataSet,
    config: SearchConfig,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    objectives: Mapping[str, Objective] | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = never,
    listener: Listener | None = None,
    processes: Processes = ALONE,
) -> SearchResult:
    """Search for a genotype from the start, or go on with the search in `folder`.

    Args:
        data: images and labels; its test images are not looked at.
        config: the space, the supernet and how to search.
        folder: where the search lives; made if it is not there.
        seed: of the split, the initial weights and alphas, and the order and the augmentation of the images.
        device: the CPU unless given.
        objectives: terms of the objective by name, beside cross-entropy and the diversity of `config`.
        resume: go on with the search in `folder` instead of beginning one.
        stop: asked after every step; once it answers True, the search saves its place and returns.
        listener: is told how it goes.
        processes: this process among those that search together; each calls this function with the same arguments.

    Raises:
        SearchError: `folder` holds a search already, or none to resume, or one with other settings; or a loss is not
            finite; or several processes are to run compiled code.
        BnasError: a step would take more memory than there is, or a file of the search cannot be written.
        CheckpointError: the file to resume from cannot be read or is damaged.
        DataError: the data set is too small, or the recipe does not suit it.
    """
    device = device or torch.device("cpu")
    if not resume and processes.writes:
        SearchRun.check_folder(folder)
    check_images(data, config)
    if config.arithmetic == "float16":
        raise SearchError(
            "--arithmetic float16: a search has losses of weights and of alphas, and none of them is scaled; use "
            "bfloat16"
        )
    check_arithmetic(config.arithmetic, device)
    for half in (data.train_size // 2, data.train_size - data.train_size // 2):
        check_shares(half, config.recipe.batch_size, processes, SearchError)
    if config.compiled:
        if processes.count > 1:
            raise SearchError(f"--compile: no code is made for {processes.count} processes; leave --compile out")
        check_compiler(device)
    check_step(config, device, processes.count)
    terms: dict[str, Objective] = {"diversity": _diversity(config)} if config.diversity else {}
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, tf32(config.arithmetic == "tf32"):
        torch.manual_seed(seed)
        terms |= objectives or {}
        run = SearchRun(
            data, config, folder, seed=seed, device=device, terms=terms, listener=listener, processes=processes
        )
        if resume:
            run.restore()
        else:
            run.begin()
        finished = run.go_on(stop)
    return SearchResult(folder, finished, run.results_so_far())


def _diversity(config: SearchConfig) -> Diversity:
    return Diversity(config.diversity, config.diversity_epochs, stale_index=config.deviates("stale-entropy-index"))
