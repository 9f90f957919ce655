"""What a training consists of between two steps: all that a checkpoint has to keep."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lowcurve.penalties import AdaptiveWeight
from lowcurve.training.objective import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class State:
    """Network, optimizer, objective and average, how far they are, and the best weights so far."""

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
        self.average = None if average is None else _average(self.network, average)
        self.step, self.history, self.sums = 0, list[dict[str, float]](), dict[str, Tensor]()
        self.best: dict[str, Any] | None = None

    @property
    def forward(self) -> nn.Module:
        """The network as this process runs it. Not through Fabric's own wrapper, which wants every backward pass for itself:
        attacks and penalties cannot give it those."""
        return self.model._forward_module  # type: ignore[return-value]

    @property
    def result(self) -> nn.Module:
        """The network whose weights training would give if it ended now."""
        return self.network if self.average is None else self.average.module

    def close_epoch(self, steps: int) -> dict[str, float]:
        """The means of an epoch's terms, and its learning rate at the end."""
        means = {name: (value / steps).item() for name, value in self.sums.items()}
        self.sums.clear()
        rate = float(self.optimizer.param_groups[0]["lr"])
        return {"epoch": float(self.step // steps), **means, "learning rate": rate}

    def keep_if_best(self, score: float) -> None:
        """Keep the weights of `result` unless an epoch before had as high a score."""
        if self.best is None or score > self.best["score"]:
            weights = {name: value.detach().clone() for name, value in self.result.state_dict().items()}
            self.best = {"score": score, "weights": weights}

    def finish(self) -> None:
        """Give the network the weights that were to be kept."""
        if self.best is not None:
            self.network.load_state_dict(self.best["weights"])
        elif self.average is not None:
            self.network.load_state_dict(self.average.module.state_dict())

    def agree(self) -> None:
        """Give all processes the mean of their running statistics: each of them has seen other batches."""
        if self.fabric.world_size == 1 or self.objective.statistics == "frozen":
            return
        for module in (*self.network.modules(), *(() if self.average is None else self.average.modules())):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for buffer in (b for b in module.buffers() if b.is_floating_point()):
                    buffer.copy_(torch.as_tensor(self.fabric.all_reduce(buffer, reduce_op="mean")))

    def dump(self) -> dict[str, Any]:
        """Tensors and plain values alone."""
        terms = self.objective.penalties.items()
        return {
            "step": self.step,
            "history": self.history,
            "sums": dict(self.sums),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            "surges": {name: asdict(term.weight) for name, term in terms if isinstance(term.weight, AdaptiveWeight)},
            "loss scale": self.fabric.strategy.precision.state_dict(),
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go back to what was dumped, if anything was."""
        if state is None:
            return
        self.step, self.history, self.sums = state["step"], list(state["history"]), dict(state["sums"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = state["best"]
        terms = self.objective.penalties
        moved = {
            name: replace(terms[name], weight=AdaptiveWeight(**values)) for name, values in state["surges"].items()
        }
        self.objective = replace(self.objective, penalties={**terms, **moved})
        if state["loss scale"]:
            self.fabric.strategy.precision.load_state_dict(state["loss scale"])


def _average(network: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
