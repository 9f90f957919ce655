"""The network under audit: what the tests share, so that no attack is run twice."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.norms import L2, Ball
from lowcurve.attacks import PGD, Square, Suite
from lowcurve.attacks.active_set import Observer, Outcome, carry_out
from lowcurve.attacks.state import AttackBatch, is_fooled
from lowcurve.attacks.suites import Effort, strong
from lowcurve.data.batches import Examples
from lowcurve.evaluation.attacking import attack
from lowcurve.evaluation.audit.budget import Budget
from lowcurve.evaluation.measuring import logits_of
from lowcurve.evaluation.sharing import agreed, gathered, share_of
from lowcurve.losses import log_odds, margin
from lowcurve.types import AttackFunction, Loss, PerExample


@dataclass
class AuditState:
    """The network, the examples that it classifies rightly (C in the tables), and what has been found out about them.

    fallen: for each attack at the ball's radius who of C fell to it, and `white` the names of those that follow gradients;
    at: who fell at which other radius. differentiable: whether gradients exist, as test 4 found. fabric: whose processes
    share the attacks; what is noted is what its first one found.
    """

    model: nn.Module
    all: Examples
    right: np.ndarray
    ball: Ball
    budget: Budget
    seed: int
    batch_size: int
    all_logits: Tensor
    substitute: nn.Module | None = None
    certified: np.ndarray | None = None
    reference: np.ndarray | None = None
    differentiable: bool = True
    fallen: dict[str, np.ndarray] = field(default_factory=dict)
    white: list[str] = field(default_factory=list)
    at: dict[float, np.ndarray] = field(default_factory=dict)
    partly: set[str] = field(default_factory=set)
    silent: np.ndarray | None = None
    as_given: list[Tensor] | None = None
    fabric: Any = None

    def __post_init__(self) -> None:
        self.few = self.all.take(torch.from_numpy(np.flatnonzero(self.right)))
        self.x = self.few.pixels(slice(None)).to(self.like.dtype)
        self.y = self.few.y
        self.logits = self.all_logits[torch.from_numpy(self.right)]
        self.highest = log_odds(self.logits, self.y).double().numpy()

    @property
    def like(self) -> Tensor:
        """A tensor of the network's precision and place."""
        return next(self.model.parameters(), torch.zeros(()))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def margins(self) -> np.ndarray:
        """m(x) of every example of C."""
        return np.asarray(margin(self.logits, self.y).numpy())

    @property
    def queried(self) -> np.ndarray:
        """The places in C of those whom the costly tests look at: the first so many."""
        return np.arange(min(len(self), self.budget.images))

    def each(self, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        """function(x, y) a batch at a time, on the network's device; the result is brought home."""
        labels = self.y if y is None else y
        parts = zip(torch.split(x, self.batch_size), torch.split(labels, self.batch_size), strict=True)
        device = self.like.device
        return torch.cat([function(a.to(device), b.to(device)).cpu() for a, b in parts])

    def seen(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The logits there."""
        return self.each(lambda a, b: logits_of(self.model, a, b), x, y)

    def streams(self, *path: object, rows: np.ndarray | None = None) -> randomness.Streams:
        """A stream for each of these examples, its own whatever the batch."""
        streams = randomness.example_streams(randomness.stream(self.seed, *path), self.x, self.y)
        return streams if rows is None else streams.take(torch.from_numpy(rows))

    def pgd(self, loss: Loss = log_odds, steps: int | None = None, restarts: int = 1, ball: Ball | None = None) -> PGD:
        """PGD as all tests use it unless they say otherwise."""
        return PGD(ball or self.ball, steps=steps or self.budget.steps, loss=loss, restarts=restarts)

    def fell(
        self,
        name: str,
        method: AttackFunction,
        *,
        white: bool = True,
        rows: np.ndarray | None = None,
        model: nn.Module | None = None,
    ) -> np.ndarray:
        """Who of C falls to this attack at the ball's radius; `rows`: only these are shown to it. Found out once.

        All but suites begin at the same random points, so that two of them differ by what they do, not by luck.
        """
        if name not in self.fallen:
            fallen = np.zeros(len(self), dtype=bool)
            places = np.arange(len(self)) if rows is None else rows
            if len(places):
                fallen[places] = self._attacked(method, places, model)
            self.note(name, fallen, white=white, partly=rows is not None)
        return self.fallen[name]

    def note(self, name: str, fallen: np.ndarray, *, white: bool, partly: bool = False) -> None:
        """Remember who fell to an attack of this name; `partly`: it was not shown all of C."""
        self.fallen[name] = agreed(self.fabric, fallen)
        if partly:
            self.partly.add(name)
        if white:
            self.white.append(name)

    def fell_at(self, radius: float) -> np.ndarray:
        """Who of C falls to PGD at this radius."""
        if radius == self.ball.radius:
            self.at[radius] = self.plain()
        if radius not in self.at:
            ball = replace(self.ball, radius=radius)
            self.at[radius] = self._attacked(self.pgd(ball=ball), np.arange(len(self)), None)
        return self.at[radius]

    def _attacked(self, method: AttackFunction, rows: np.ndarray, model: nn.Module | None) -> np.ndarray:
        suite = method if isinstance(method, Suite) else Suite((("PGD", method),))
        few = self.few.take(torch.from_numpy(rows))
        with self._shared():
            found = attack(
                model or self.model, few, suite, seed=self.seed, batch_size=self.batch_size,
                fabric=self.fabric,
            )  # fmt: skip
        return ~found.robust

    def _shared(self) -> AbstractContextManager[None]:
        """Inside, a network may draw as many random numbers as this process's share needs; afterwards all are alike again."""
        if self.fabric is None or self.fabric.world_size == 1:
            return nullcontext()
        return randomness.temporary_seed(self.seed, "audit", self.fabric.global_rank)

    def walked(self, method: PGD, rows: np.ndarray, *, stop: bool, watch: Observer | None = None) -> Outcome:
        """One walk from each of these examples, watched."""
        there = torch.from_numpy(rows)
        streams = randomness.example_streams(randomness.stream(self.seed, "attack", "PGD"), self.x, self.y)
        x = self.x[there]
        images = AttackBatch(self.model, x, self.y[there], self.ball.radii(x), streams.take(there), self.logits[there])
        return carry_out(
            method, images.with_streams(0), stop=stop, limit=self.batch_size, device=self.like.device, observe=watch
        )  # fmt: skip

    def ends(self, method: AttackFunction, model: nn.Module, rows: np.ndarray) -> Tensor:
        """Where the attack on a network ends for these examples, walked to its end."""
        there = torch.from_numpy(rows)

        def found(x: Tensor, y: Tensor) -> Tensor:
            # The same stream for every batch: an example's draws depend on it alone.
            return method(model, x, y, generator=randomness.stream(self.seed, "attack", "PGD"))

        mine = share_of(self.fabric, len(there))
        with self._shared():
            ends = self.each(found, self.x[there[mine]], self.y[there[mine]])
        return ends if len(mine) == len(there) else gathered({"ends": ends}, mine)["ends"]

    def plain(self) -> np.ndarray:
        """Who of C falls to PGD; and beside it, in `silent`, who was fooled on the way and is not by the answer."""
        if "PGD" not in self.fallen:
            ever = np.zeros(len(self), dtype=bool)

            def watch(numbers: Tensor, _rows: object, _values: PerExample, logits: Tensor) -> None:
                places = numbers.cpu()
                ever[places.numpy()] |= is_fooled(logits.cpu(), self.y[places]).numpy()

            found = self.walked(self.pgd(), np.arange(len(self)), stop=True, watch=watch)
            fallen = (self.seen(found.point).argmax(1) != self.y).numpy()
            self.silent, self.highest = ever & ~fallen, agreed(self.fabric, found.value.double().numpy())
            self.note("PGD", fallen, white=True)
        return self.fallen["PGD"]

    def survivors(self) -> np.ndarray:
        """The places of those among the queried whom no attack by gradients fooled, once APGD has been tried on them."""
        if self.differentiable and "APGD" not in self.fallen:
            members = strong(self.ball, effort=Effort(steps=self.budget.apgd_steps, relays=0)).members
            follow = tuple(member for member in members if not isinstance(member[1], Square))
            self.fell("APGD", Suite(follow), rows=self._open())
        return self._open()

    def _open(self) -> np.ndarray:
        return np.setdiff1d(self.queried, np.flatnonzero(self.fell_to_gradients()))

    def fell_to_gradients(self) -> np.ndarray:
        """Who of C fell to any attack that follows gradients."""
        return self._any(self.white)

    def fell_to_anything(self) -> np.ndarray:
        """Who of C fell to anything at the ball's radius."""
        return self._any(list(self.fallen))

    def _any(self, names: list[str]) -> np.ndarray:
        fallen = np.zeros(len(self), dtype=bool)
        for name in names:
            fallen |= self.fallen[name]
        return fallen

    def beyond(self) -> np.ndarray:
        """Who of C fell to an attack without gradients and to none with."""
        return np.asarray(self.fell_to_anything() & ~self.fell_to_gradients())

    def robust(self) -> np.ndarray:
        """Who of all examples is classified rightly and fell to nothing at the ball's radius."""
        return self.whole(~self.fell_to_anything())

    def columns(self) -> dict[str, np.ndarray]:
        """Who of all examples stands under each attack that was shown all of C."""
        return {name: self.whole(~fell) for name, fell in self.fallen.items() if name not in self.partly}

    def whole(self, of_right: np.ndarray) -> np.ndarray:
        """A column of C as one of all examples, false where the network was wrong before."""
        column = np.zeros(len(self.right), dtype=bool)
        column[self.right] = of_right
        return column

    def margins_at(self, x: Tensor, rows: np.ndarray) -> Tensor:
        """m at these points of these examples."""
        y = self.y[torch.from_numpy(rows)]
        return margin(self.seen(x, y), y)

    def widest(self) -> float:
        """The radius at which the ball holds the whole pixel box."""
        low, high = self.ball.box
        return (high - low) * (self.x[0].numel() ** 0.5 if self.ball.norm == L2 else 1.0)

    def share(self, rows: np.ndarray) -> float:
        """Of C: |S| / |C| in the tables."""
        return float(rows.sum()) / len(self)

    def points(self, rows: np.ndarray) -> float:
        """Of all examples: by how much the accuracy R in the tables is lower if these fall too."""
        return float(rows.sum()) / len(self.right)
