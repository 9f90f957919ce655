"""Networks as they were after each epoch of their training."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

from torch import nn

from lowcurve.errors import InputError
from lowcurve.papers.common.context import Context
from lowcurve.papers.common.epoch_run import STANDARD, EpochRun, select_epochs
from lowcurve.papers.common.seed_tables import file_name
from lowcurve.study.pipeline import optimization_of
from lowcurve.study.settings import Study


def keep_epochs(context: Context) -> Context:
    """Return a context that keeps every training's weights by epoch and trains one standard network for all rows."""
    return replace(context, keeps_epochs=True)


def load_epochs(context: Context, row: str, study: Study, seed: int = 0) -> Iterator[tuple[int, nn.Module]]:
    """Yield the network of a row after each kept epoch of its training.

    The weights are those of training, not a moving average of them.

    Args:
        context: Context that keeps epochs; see `keep_epochs`.
        row: Name of the row.
        study: Settings of the row, with one method.
        seed: Seed of the training.

    Yields:
        Epoch and network in eval mode. Epoch 0 is the standard network if training starts from it.

    Raises:
        InputError: If the context does not keep epochs.
    """
    made, _, models = context.load_or_train(file_name(row), study, seed)
    (name,) = study.methods
    run = context.networks_run(file_name(row), made)
    if not isinstance(run, EpochRun):
        raise InputError(f"the weights of {name} after each epoch", "none", "use keep_epochs(context)")
    if STANDARD in run.networks() and name != STANDARD:
        yield 0, run.load_network(STANDARD)
    key = run.made_by(name) or ""
    for epoch in select_epochs(optimization_of(name, made).epochs):
        state = run.epoch(name, epoch, key).load()
        assert state is not None  # made_by checked it
        model = deepcopy(models[name])
        model.load_state_dict(state["model"])
        yield epoch, model
