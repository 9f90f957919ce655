"""Results that the tests of an audit share, so that no attack runs twice."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.norms import Ball
from lowcurve.attacks import FGSM, PGD, Square, Suite
from lowcurve.attacks.acceptance import accept
from lowcurve.attacks.active_set import Observer, Outcome, carry_out
from lowcurve.attacks.state import AttackBatch, is_fooled, require_finite_logits
from lowcurve.attacks.suites import Effort, strong
from lowcurve.data.examples import Examples
from lowcurve.evaluation.attack_result import AttackResult
from lowcurve.evaluation.attacking import attack
from lowcurve.evaluation.audit.budget import Budget
from lowcurve.evaluation.audit.fooled import ONE_STEP, FooledImages
from lowcurve.evaluation.audit.known import Searches, follows_gradients, fooled_by_gradients, outlasted, searches
from lowcurve.evaluation.audit.shards import SharedColumns
from lowcurve.evaluation.audit.twins import Averaged
from lowcurve.evaluation.audit.verdict import FEW, FEWEST
from lowcurve.evaluation.measuring import logits_of, on_device
from lowcurve.evaluation.parts import Piece, Share, evaluate_parts
from lowcurve.evaluation.sharing import broadcast
from lowcurve.losses import log_odds, margin
from lowcurve.network_calls import input_like
from lowcurve.types import AttackFunction, Loss, PerExample

NOTHING_ROBUST = "gradient attacks fool every image that was tried, so no robustness can be false"
JUDGED_DRAWS = 32
"""Draws of a random network over which the logits are averaged that judge an image."""


@dataclass
class AuditState(FooledImages):
    """The audited network, its correctly classified images, and what the tests have found so far.

    Arrays "per correct image" have one entry for each image that is classified correctly without an attack; indices of
    images count among these.

    Attributes:
        model: The network, in eval mode.
        examples: All images.
        correct: True for each image that is classified correctly.
        ball: Norm, radius and pixel box.
        budget: Cost of the tests.
        seed: Seed of all random numbers.
        batch_size: Images in a batch.
        all_logits: Logits of all images.
        substitute: Network for the transfer test, if given.
        certified: Certificates of all images, if given.
        reference: Robustness of all images under AutoAttack, if given.
        attacked: Result of the suite that the audit accompanies, if given.
        known: The same on the audited images alone, where it can be told that it is of these.
        differentiable: True if the network has gradients. Test 4 finds out.
        fooled: For each attack at the ball's radius, which correct images it fooled.
        gradient_attacks: Names of the attacks that follow gradients.
        by_radius: For each radius, which correct images PGD fooled there.
        partial: Attacks tried on some images only.
        lost: Correct images that PGD fooled during its search. Its answer does not fool them.
        longest: Points of the longest PGD.
        longest_rows: Indices of the images that it attacked.
        passes: Logits of all images in repeated passes.
        random: True if these differ, so that single draws decide nothing.
        logits_as_given: Logits of repeated passes in the model's own mode. Present if that was not eval mode.
        fabric: Processes that share the attacks. All use the results of the first one.
        shared: The attacks of other shards, if there are any.
    """

    model: nn.Module
    examples: Examples
    correct: np.ndarray
    ball: Ball
    budget: Budget
    seed: int
    batch_size: int
    all_logits: Tensor
    substitute: nn.Module | None = None
    certified: np.ndarray | None = None
    reference: np.ndarray | None = None
    attacked: AttackResult | None = None
    known: AttackResult | None = None
    differentiable: bool = True
    fooled: dict[str, np.ndarray] = field(default_factory=dict)
    gradient_attacks: list[str] = field(default_factory=list)
    by_radius: dict[float, np.ndarray] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    lost: np.ndarray | None = None
    longest: Tensor = field(default_factory=lambda: torch.zeros(0))
    longest_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    passes: list[Tensor] = field(default_factory=list)
    random: bool = False
    logits_as_given: list[Tensor] | None = None
    fabric: Any = None
    shared: SharedColumns = field(default_factory=SharedColumns)

    def __post_init__(self) -> None:
        self.correct_examples = self.examples.take(torch.from_numpy(np.flatnonzero(self.correct)))
        self.x = self.correct_examples.pixels(slice(None)).to(self.like.dtype)
        self.y = self.correct_examples.y
        self.logits = self.all_logits[torch.from_numpy(self.correct)]
        self.best_value = log_odds(self.logits, self.y).double().numpy()

    @property
    def like(self) -> Tensor:
        """A tensor with the network's precision and device."""
        return input_like(self.model)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def margins(self) -> np.ndarray:
        """The margin z_y - max z_k of every correct image."""
        return np.asarray(margin(self.logits, self.y).numpy())

    @property
    def queried(self) -> np.ndarray:
        """Indices of the correct images on which the costly tests run: the first `budget.images`."""
        return np.arange(min(len(self), self.budget.images))

    @property
    def judge(self) -> nn.Module:
        """The network whose class counts: the audited one, or its mean over draws if its output is random."""
        return Averaged(self.model, torch.zeros(JUDGED_DRAWS, 1)) if self.random else self.model

    # --- the network at other points

    def in_batches(self, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return function(x, y), computed in batches on the network's device, on the CPU."""
        labels = self.y if y is None else y
        parts = zip(torch.split(x, self.batch_size), torch.split(labels, self.batch_size), strict=True)
        device = self.like.device
        return torch.cat([function(a.to(device), b.to(device)).cpu() for a, b in parts])

    def logits_at(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the logits at points x with labels y, by default those of the correct images."""
        return self.in_batches(lambda a, b: logits_of(self.model, a, b), x, y)

    def margins_at(self, x: Tensor, rows: np.ndarray, model: nn.Module | None = None) -> Tensor:
        """Return the margins at points x of the images with these indices, by default those of the audited network."""
        y = self.y[torch.from_numpy(rows)]
        return margin(self.in_batches(lambda a, b: logits_of(model or self.model, a, b), x, y), y)

    def streams(self, *path: object, rows: np.ndarray | None = None) -> randomness.Streams:
        """Return a stream of random numbers per correct image, independent of the batch."""
        streams = randomness.example_streams(randomness.stream(self.seed, *path), self.x, self.y)
        return streams if rows is None else streams.take(torch.from_numpy(rows))

    def pgd(self, loss: Loss = log_odds, steps: int | None = None, restarts: int = 1, ball: Ball | None = None) -> PGD:
        """Return the PGD that all tests use unless they say otherwise."""
        return PGD(ball or self.ball, steps=steps or self.budget.steps, loss=loss, restarts=restarts)

    def fooled_by(
        self,
        name: str,
        method: AttackFunction,
        *,
        gradients: bool = True,
        rows: np.ndarray | None = None,
        model: nn.Module | None = None,
    ) -> np.ndarray:
        """Return which correct images an attack fools at the ball's radius; the answer is stored under its name.

        Single attacks start from the same random points, so that two of them differ only by what they do.

        Args:
            name: Name of the attack.
            method: The attack.
            gradients: Whether it follows gradients.
            rows: Indices of the images to attack. None means all correct ones.
            model: Network to attack instead of the audited one.
        """
        if name not in self.fooled:
            found = np.zeros(len(self), dtype=bool)
            chosen = np.arange(len(self)) if rows is None else rows
            if len(chosen):
                found[chosen] = self._fooled(name, method, chosen, model)
            self.record(name, found, gradients=gradients, partial=rows is not None)
        return self.fooled[name]

    def record(self, name: str, found: np.ndarray, *, gradients: bool, partial: bool = False) -> None:
        """Store which correct images an attack fooled.

        Args:
            name: Name of the attack.
            found: Whether each correct image was fooled.
            gradients: Whether the attack follows gradients.
            partial: Whether it was tried on some images only.
        """
        self.fooled[name] = broadcast(self.fabric, found)
        if partial:
            self.partial.add(name)
        if gradients:
            self.gradient_attacks.append(name)

    def fooled_at(self, radius: float) -> np.ndarray:
        """Return which correct images PGD fools at a radius."""
        if radius == self.ball.radius:
            self.by_radius[radius] = self.fooled_by_pgd()
        if radius not in self.by_radius:
            ball = replace(self.ball, radius=radius)
            self.by_radius[radius] = self._fooled(f"radius {radius}", self.pgd(ball=ball), np.arange(len(self)), None)
        return self.by_radius[radius]

    def attack(self, method: AttackFunction, rows: np.ndarray, model: nn.Module | None = None) -> AttackResult:
        """Return the result of an attack on these correct images, on another network if one is given."""
        suite = method if isinstance(method, Suite) else Suite((("PGD", method),))
        few = self.correct_examples.take(torch.from_numpy(rows))
        with self._isolated():
            shared = {"batch_size": self.batch_size, "fabric": self.fabric}
            return attack(model or self.model, few, suite, seed=self.seed, progress=False, **shared)

    def _fooled(self, name: str, method: AttackFunction, rows: np.ndarray, model: nn.Module | None) -> np.ndarray:
        def robust(own: np.ndarray) -> Tensor:
            return torch.from_numpy(self.attack(method, own, model).robust)

        return ~self.shared.column(name, rows, robust, torch.ones(len(rows), dtype=torch.bool)).numpy()

    def _isolated(self) -> AbstractContextManager[None]:
        """Keep the global random state of all processes equal, although their networks may draw different amounts."""
        if self.fabric is None or self.fabric.world_size == 1:
            return nullcontext()
        return randomness.temporary_seed(self.seed, "audit", self.fabric.global_rank)

    def gradient_suite(self) -> Suite:
        """Return the attacks of `strong` that follow gradients, with four targets."""
        members = strong(self.ball, effort=Effort(self.budget.apgd_steps, targets=4, relays=0)).members
        return Suite(tuple(member for member in members if follows_gradients(member[1])))

    def run_pgd(self, method: PGD, rows: np.ndarray, *, stop: bool, observe: Observer | None = None) -> Outcome:
        """Run PGD once from each of these images.

        Args:
            method: The attack, with one restart.
            rows: Indices of the images.
            stop: Whether an image leaves once it is fooled.
            observe: Called with every point that is evaluated.
        """
        there = torch.from_numpy(rows)
        x, streams = self.x[there], self.streams("attack", "PGD", rows=rows)
        images = AttackBatch(self.model, x, self.y[there], self.ball.radii(x), streams, self.logits[there])
        device, size = self.like.device, self.batch_size
        found = carry_out(method, images.with_streams(0), stop=stop, limit=size, device=device, observe=observe)
        require_finite_logits(found.undefined)
        return found

    def attack_fully(self, name: str, method: AttackFunction, model: nn.Module, rows: np.ndarray) -> Tensor:
        """Return the attacked images; the attack on `model` does not stop early."""

        def columns_of(piece: Piece) -> dict[str, Tensor]:
            x, y = on_device(self.model, piece.examples, slice(None))
            # The same stream for every batch: an image's draws depend on it alone.
            answer = method(model, x, y, generator=randomness.stream(self.seed, "attack", "PGD"))
            return {"found": accept(method, x, answer)[0].cpu()}

        def attacked(own: np.ndarray) -> Tensor:
            few = self.correct_examples.take(torch.from_numpy(own))
            with self._isolated():
                return evaluate_parts(few, self.batch_size, columns_of, Share(self.fabric))["found"]

        return self.shared.column(name, rows, attacked, self.x[torch.from_numpy(rows)])

    def fooled_at_points(self, points: Tensor, rows: np.ndarray) -> np.ndarray:
        """Return whether points fool the network that counts (`judge`), for the images with these indices."""
        return np.asarray((self.margins_at(points, rows, self.judge) < 0).numpy())

    def forget_single_draws(self) -> None:
        """Drop what single draws of a random network decided, and judge the suite's attacked images by the mean."""
        self.fooled, self.gradient_attacks, self.partial, self.by_radius = {}, [], set(), {}
        if self.known is not None:
            points = self.known.inputs[torch.from_numpy(self.correct)].to(self.x)
            found = self.fooled_at_points(points, np.arange(len(self)))
            self.record("judged attacks", found, gradients=True, partial=True)

    def fooled_by_pgd(self) -> np.ndarray:
        """Return which correct images PGD fools; `lost` gets those it fooled during the search only."""
        if "PGD" not in self.fooled:
            ever = np.zeros(len(self), dtype=bool)

            def observe(numbers: Tensor, _state: object, _values: PerExample, logits: Tensor) -> None:
                rows = numbers.cpu()
                ever[rows.numpy()] |= is_fooled(self.model, logits.cpu(), self.y[rows]).numpy()

            found = self.run_pgd(self.pgd(), np.arange(len(self)), stop=True, observe=observe)
            answer = (self.logits_at(found.point).argmax(1) != self.y).numpy()
            self.lost, self.best_value = ever & ~answer, broadcast(self.fabric, found.value.double().numpy())
            self.record("PGD", answer, gradients=True)
        return self.fooled["PGD"]

    def fooled_by_one_step(self) -> np.ndarray:
        """Return which correct images FGSM fools."""
        self.still_robust()  # attacks of many steps come first, and judge all images
        return self.fooled_by(ONE_STEP, FGSM(self.ball))

    def certified_here(self) -> np.ndarray:
        """Return which correct images are certified at the audited radius; none without certificates."""
        if self.certified is None:
            return np.zeros(len(self), dtype=bool)
        holds = self.certified if self.certified.dtype == bool else self.certified >= self.ball.radius
        return np.asarray(holds[self.correct])

    def still_robust(self) -> np.ndarray:
        """Return the indices of the queried images that no gradient attack fooled, after APGD has been tried on them."""
        if self.differentiable and "APGD" not in self.fooled:
            suite = self.gradient_suite()
            tried = np.zeros(len(self), dtype=bool)
            if self.known is None:
                self.fooled_by_pgd()
            else:
                self.record("suite", fooled_by_gradients(self.known)[self.correct], gradients=True)
                tried = outlasted(self.known, suite.members)[self.correct]
            self.fooled_by("APGD", suite, rows=np.setdiff1d(self._remaining(), np.flatnonzero(tried)))
        return self._remaining()

    def searches_of_suite(self, wanted: Square) -> Searches | None:
        """Return the suite's searches with Square on the correct images; None if none has as many queries as are wanted."""
        found = None if self.known is None else searches(self.known, wanted)
        return found and found.take(self.correct)

    def worth_searching(self) -> np.ndarray:
        """Return the robust images, or none if they are so few that no test can fail. A thorough audit gets them all."""
        rows = self.still_robust()
        few = len(rows) < FEWEST and len(rows) <= FEW * len(self.queried) and self.differentiable
        return rows[:0] if few and not self.budget.everything else rows

    def why_not_searched(self) -> str:
        """Return why no image is searched."""
        left = len(self.still_robust())
        return f"gradient attacks leave {left} images robust, too few for a test to fail" if left else NOTHING_ROBUST

    def nothing_is_claimed(self) -> bool:
        """Return whether the robust accuracy that is judged is 0: the suite's, or without one that of gradient attacks."""
        if self.attacked is not None:
            return not self.attacked.robust.any()
        return self.differentiable and not len(self.still_robust()) and bool(self.fooled_by_gradients().all())

    def _remaining(self) -> np.ndarray:
        return np.setdiff1d(self.queried, np.flatnonzero(self.fooled_by_gradients()))

    def largest_radius(self) -> float:
        """Return the radius at which the ball holds the whole pixel box."""
        return self.ball.widest(self.x[0].numel())
