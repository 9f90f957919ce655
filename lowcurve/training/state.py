"""The state of a training between two steps: everything that a checkpoint holds."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lowcurve.attacks import SORA
from lowcurve.errors import InputError
from lowcurve.penalties import AdaptiveWeight
from lowcurve.training.alignment import CollapseWatch
from lowcurve.training.objective import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class State:
    """Network, optimizer, objective and weight average of a training, its progress, and the best weights so far.

    Args:
        fabric: Fabric of the training.
        model: Network set up by Fabric.
        optimizer: Its optimizer.
        objective: Objective of the next step.
        average: Decay of the moving average of the weights, or None.
    """

    def __init__(
        self,
        fabric: "Fabric",
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        average: float | None,
    ) -> None:
        self.fabric, self.model, self.optimizer, self.objective = fabric, model, optimizer, objective
        self.network: nn.Module = model.module  # type: ignore[assignment]
        self.average = None if average is None else _moving_average(self.network, average)
        self.step, self.history, self.sums = 0, list[dict[str, float]](), dict[str, Tensor]()
        self.best: dict[str, Any] | None = None
        self.collapse = CollapseWatch()

    @property
    def forward(self) -> nn.Module:
        """The network as this process runs it, without Fabric's wrapper.

        The wrapper requires every backward pass to go through Fabric, which those of attacks and penalties do not.
        """
        return self.model._forward_module  # type: ignore[return-value]

    @property
    def result(self) -> nn.Module:
        """The network with the weights that training would give if it ended now."""
        return self.network if self.average is None else self.average.module

    def close_epoch(self, steps: int) -> dict[str, float]:
        """Return the means of an epoch's terms and its last learning rate, and start the next epoch.

        Args:
            steps: Number of steps of an epoch.
        """
        means = {name: (value / steps).item() for name, value in self.sums.items()}
        self.sums.clear()
        rate = float(self.optimizer.param_groups[0]["lr"])
        return {"epoch": float(self.step // steps), **means, "learning rate": rate}

    def keep_if_best(self, score: float) -> None:
        """Keep the weights of `result` if no epoch before had as high a score; NaN is no score."""
        if not math.isnan(score) and (self.best is None or score > self.best["score"]):
            weights = {name: value.detach().clone() for name, value in self.result.state_dict().items()}
            self.best = {"score": score, "weights": weights}

    def finish(self) -> None:
        """Give the network the best weights or their average, if they are to be kept."""
        if self.best is not None:
            self.network.load_state_dict(self.best["weights"])
        elif self.average is not None:
            self.network.load_state_dict(self.average.module.state_dict())

    def average_statistics(self) -> None:
        """Give all processes the mean of their running statistics, since each has seen other batches."""
        if self.fabric.world_size == 1 or self.objective.statistics == "frozen":
            return
        for module in (*self.network.modules(), *(() if self.average is None else self.average.modules())):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for buffer in (b for b in module.buffers() if b.is_floating_point()):
                    buffer.copy_(torch.as_tensor(self.fabric.all_reduce(buffer, reduce_op="mean")))

    def dump(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        terms = self.objective.penalties.items()
        adaptive = {name: asdict(term.weight) for name, term in terms if isinstance(term.weight, AdaptiveWeight)}
        return {
            "step": self.step,
            "history": self.history,
            "sums": dict(self.sums),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            "adaptive weights": adaptive,
            "linearity": attack.linearity if isinstance(attack := self.objective.attack, SORA) else None,
            "collapse": self.collapse.dump(),
            "loss scale": self.fabric.strategy.precision.state_dict(),
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Restore a state that `dump` returned; None changes nothing.

        Raises:
            InputError: If another version of lowcurve made it.
        """
        if state is None:
            return
        if missing := sorted(self.dump().keys() - state.keys()):
            hint = "go on with the version that wrote it, or remove it to begin anew"
            raise InputError("a checkpoint of this version of lowcurve", f"one without {', '.join(missing)}", hint)
        self.step, self.history, self.sums = state["step"], list(state["history"]), dict(state["sums"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = state["best"]
        terms = self.objective.penalties
        restored = {
            name: replace(terms[name], weight=AdaptiveWeight(**values))
            for name, values in state["adaptive weights"].items()
        }
        attack = self.objective.attack
        if isinstance(attack, SORA):
            attack = replace(attack, linearity=state["linearity"])
        self.objective = replace(self.objective, attack=attack, penalties={**terms, **restored})
        self.collapse.restore(state["collapse"])
        if state["loss scale"]:
            self.fabric.strategy.precision.load_state_dict(state["loss scale"])


def _moving_average(network: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
