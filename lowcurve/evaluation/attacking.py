"""Attacks over a data set: which images stay robust, how far each was moved, and which attack fooled the network."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.norms import L2, Ball, Norm, as_norm
from lowcurve.attacks import Suite
from lowcurve.attacks.acceptance import accept, tell_not_accepted
from lowcurve.attacks.active_set import IterativeAttack, carry_out_together, count_alike, count_forward_passes
from lowcurve.attacks.selective import Margins, Selective
from lowcurve.attacks.state import AttackBatch, select_rows
from lowcurve.data.coercion import Data
from lowcurve.data.examples import Examples
from lowcurve.data.labels import Labels
from lowcurve.errors import InputError
from lowcurve.evaluation.arguments import members_of, require_attack, require_batch_size, require_radii, split_arguments
from lowcurve.evaluation.attack_result import CLEAN, UNDEFINED, AttackResult
from lowcurve.evaluation.independence import warn_of_dependence
from lowcurve.evaluation.measuring import are_probabilities, logits_of, require_examples
from lowcurve.evaluation.parts import Ledger, Piece, Shard, Share, evaluate_parts, open_ledger, part_size
from lowcurve.evaluation.sharing import Ticker
from lowcurve.losses import margin
from lowcurve.models.failing_layers import name_failing_layer
from lowcurve.models.modes import frozen
from lowcurve.network_calls import gradients_enabled, input_like
from lowcurve.progress import choose_progress
from lowcurve.types import AttackFunction, Progress

log = logging.getLogger("lowcurve")
COLUMNS = ("fooled by", "forward passes", "distance", "margins")
PROBABILITIES = (
    "The model returns probabilities (in [0, 1], summing to 1). Return the logits before the softmax or the sigmoid: where the"
    " network is confident, gradients through them vanish and its robust accuracy comes out too high."
)
_WARNED: WeakSet[nn.Module] = WeakSet()  # one warning per network
SAVED_EVERY = 60.0
"""Seconds between two saves of an unfinished part."""


@gradients_enabled()
def attack(
    model: nn.Module,
    images: Data,
    labels: Labels | AttackFunction | None = None,
    method: AttackFunction | None = None,
    *,
    seed: int = 0,
    radius: Tensor | None = None,
    start: Tensor | None = None,
    batch_size: int = 256,
    progress: Progress[int] | bool | None = None,
    heading: str = "attacking",
    keep_inputs: bool = True,
    ledger: Ledger | str | Path | None = None,
    shard: Shard | None = None,
    fabric: Any = None,
) -> AttackResult:
    """Attack every image and measure success and distance on the attacked images.

    Called as attack(model, images, labels, method) or attack(model, data, method).

    Args:
        model: Network from pixels in [0, 1] to logits. It is evaluated in eval mode and returned in its own mode.
        images: Images, with or without labels. See `as_examples`.
        labels: True labels, unless `images` has them.
        method: An attack or a `Suite`. Members of a suite are tried in order on the images that are still robust. Its
            norm measures the distances. Without one it is l_2.
        seed: Seed of the attack's random numbers.
        radius: Radius of each image, shape (N,), for attacks that take one. None takes the ball's.
        start: Where the search begins, of the images' shape, for attacks that take a start.
        batch_size: Images in a batch. A fooled image leaves it at once for another one.
        progress: None shows a progress bar in a terminal or a notebook. False shows none.
        heading: Text of the progress bar.
        keep_inputs: Keep the attacked images. More than 256 MB of them lie in a temporary file.
        ledger: Folder or mapping that stores finished work for an interrupted call, another number of processes, or the
            shards of one whole. A dictionary will do.
        shard: (number, shards) attacks every so many-th image, from that number on; `join` puts the results together.
        fabric: Lightning Fabric whose processes share the images. Each process returns the whole result.

    Returns:
        An `AttackResult`. Neither batch size nor order of the images changes it: each has its own random numbers. An answer
        counts only if it is finite, in the attack's ball and in its box, and if the logits there are finite. An image with
        a point where they are not is not robust, and is counted apart, unless another point fooled the network.

    Raises:
        InputError: If weights or logits are not finite, if the network lacks a label, if there are no images, or if
            images lie outside the pixel box.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> from lowcurve.attacks import PGD
        >>> x = torch.tensor([[0.5, 0.45], [0.9, 0.1]])
        >>> result = attack(nn.Identity(), x, [0, 0], PGD(Ball(LINF, 0.1)))
        >>> result.robust, result.fooled_by.tolist()
        (array([False,  True]), ['PGD', ''])
    """
    require_batch_size(batch_size)
    data, chosen = split_arguments(model, images, labels, method)
    method = require_attack(chosen)
    few = require_examples(model, data)
    warn_of_dependence(model, few)
    norm = norm_of(method)
    members = members_of(method)
    if radius is not None:
        require_radii(members)
    bars = choose_progress(progress, fabric)
    store = open_ledger(ledger, model, data, "attack", method, seed, radius, *[start] * (start is not None))
    needs = (*COLUMNS, *["inputs"] * keep_inputs)

    def columns_of(piece: Piece) -> dict[str, Tensor]:
        own, begin = (None if given is None else given[piece.rows] for given in (radius, start))
        chunk = _Chunk.begin(model, piece.examples, own, begin, batch_size, seed, members)
        work = sum(count_forward_passes(member) for _, member in members) * len(piece.rows)
        _attack_chunk(chunk, members, store, piece.key, Ticker(bars, heading + piece.title, work))
        columns = chunk.results() | {"distance": norm.length(chunk.state["inputs"] - chunk.x)}
        return {name: columns[name] for name in needs}

    with frozen(model), name_failing_layer(model, few[:2]):
        size = part_size(data, batch_size)
        columns = evaluate_parts(data, size, columns_of, Share(fabric, shard), store, needs)
    attacks = np.array([*(name for name, _ in members), CLEAN, "", UNDEFINED])
    fooled_by = attacks[columns["fooled by"].numpy()]
    distance, forward_passes = columns["distance"].numpy(), columns["forward passes"].numpy()
    inputs, margins = columns.get("inputs"), columns["margins"].numpy()
    return AttackResult(
        fooled_by == "", distance, inputs, fooled_by, forward_passes, norm.name, tuple(members), shard, margins
    )


def _attack_chunk(
    chunk: "_Chunk", members: Sequence[tuple[str, AttackFunction]], ledger: Ledger | None, key: str, ticker: Ticker
) -> None:
    """Try the members in order, except those whose result is in the ledger."""
    work, tried, saved = 0, 0, time.monotonic()
    stored = None if ledger is None else ledger.get(key)
    if stored is not None and "tried" in stored and chunk.state.keys() <= stored.keys():
        chunk.state = {column: torch.as_tensor(stored[column]) for column in chunk.state}
        tried = int(stored["tried"])
    for number, (name, member) in enumerate(members):
        if number >= tried:
            chunk.attack(number, name, member, ticker.advance)
            if ledger is not None and number + 1 < len(members) and time.monotonic() - saved >= SAVED_EVERY:
                ledger[key] = {"tried": number + 1, **{k: values.clone() for k, values in chunk.state.items()}}
                saved = time.monotonic()
        work += count_forward_passes(member) * len(chunk.x)
        ticker.reach(work)  # images that were fooled early count as done


def norm_of(method: AttackFunction) -> Norm:
    """Return the norm in which an attack's distances are measured: its own or its members'; l_2 if they have none.

    Raises:
        InputError: If the members of a suite have different norms.

    Example:
        >>> from lowcurve.analysis.norms import LINF
        >>> from lowcurve.attacks import PGD
        >>> norm_of(PGD(Ball(LINF, 0.1))).name
        'l_inf'
    """
    norms = dict.fromkeys(_norms(method))
    if len(norms) > 1:
        names = ", ".join(norm.name for norm in norms)
        raise InputError("a suite of attacks in one norm", names, "evaluate the attacks of each norm separately")
    return next(iter(norms), L2)


def _norms(method: AttackFunction) -> Iterator[Norm]:
    if isinstance(method, Suite):
        for _, member in method.members:
            yield from _norms(member)
    else:
        norm = getattr(method, "norm", None)
        if norm is not None:
            yield as_norm(norm)


@dataclass
class _Chunk:
    """Some of the examples, and the attacks' results so far.

    Attributes:
        model: The network, in eval mode.
        x: Clean images on the CPU, in the model's precision.
        y: True labels.
        logits: Logits at the clean images.
        radius: Radius of each image. None takes the ball's.
        start: Where the search of each image begins. None leaves that to the attack.
        batch_size: Images in a batch.
        seed: Seed of the attacks' random numbers.
        robust: Value of state["fooled by"] for robust images.
        selects: True if a member is `Selective`. It chooses images by the lowest margins found so far.
        state: Columns with a row per image. "undefined" is True where logits were not finite at a point. "fooled by" is the
            number of the member that fooled the network. It is the number of members for images misclassified before, and
            one more for robust ones. "margins" are what `Margins` has. With a selective member, "nearest" is the point of
            the lowest margin found.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    logits: Tensor
    radius: Tensor | None
    start: Tensor | None
    batch_size: int
    seed: int
    robust: int
    selects: bool
    state: dict[str, Tensor]

    @classmethod
    def begin(
        cls,
        model: nn.Module,
        examples: Examples,
        radius: Tensor | None,
        start: Tensor | None,
        batch_size: int,
        seed: int,
        members: Sequence[tuple[str, AttackFunction]],
    ) -> "_Chunk":
        like = input_like(model)
        x, y = examples.pixels(slice(None)).to(like.dtype), examples.y
        selects = any(isinstance(member, Selective) for _, member in members)
        chunk = cls(model, x, y, x, radius, start, batch_size, seed, len(members) + 1, selects, {})
        chunk.logits = chunk.logits_at(x, y)
        if are_probabilities(chunk.logits) and model not in _WARNED:
            _WARNED.add(model)
            log.warning("%s", PROBABILITIES)
        fooled_by = torch.where(chunk.logits.argmax(1) == y, len(members) + 1, len(members))
        chunk.state = {"inputs": x.clone(), "fooled by": fooled_by, "forward passes": torch.ones_like(y)}
        chunk.state["undefined"] = torch.zeros_like(y, dtype=torch.bool)
        chunk.state["margins"] = Margins.begin(margin(chunk.logits, y), len(members)).reached
        if selects:
            chunk.state["nearest"] = x.clone()
        return chunk

    @property
    def device(self) -> torch.device:
        return input_like(self.model).device

    def logits_at(self, x: Tensor, y: Tensor, *, finite: bool = True) -> Tensor:
        rows, device = self._batches(torch.arange(len(x))), self.device
        return torch.cat([logits_of(self.model, x[k].to(device), y[k].to(device), finite=finite).cpu() for k in rows])

    def results(self) -> dict[str, Tensor]:
        """Return the columns of the result. An image that nothing fooled, but with an undefined point, is not robust."""
        undefined = self.state["undefined"] & (self.state["fooled by"] == self.robust)
        return self.state | {"fooled by": self.state["fooled by"] + undefined}

    def remaining(self) -> Tensor:
        """Return the rows of the images that are still robust."""
        return torch.nonzero(self.state["fooled by"] == self.robust).flatten()

    def attack(self, number: int, name: str, member: AttackFunction, report: Callable[[int], None]) -> None:
        """Attack the remaining images with one member."""
        rows = self._taking_part(member)
        if not len(rows):
            return
        if not isinstance(member, IterativeAttack):
            points, own = [], None if self.radius is None else self.radius[rows]
            for batch in self._batches(rows):
                x, y = self.x[batch].to(self.device), self.y[batch].to(self.device)
                options = {"radius": self.radius, "start": self.start}
                given = {k: v[batch].to(self.device) for k, v in options.items() if v is not None}
                points.append(member(self.model, x, y, generator=self._generator(name), **given).cpu())
            answers = accept(member, self.x[rows], torch.cat(points), own)
            self.record(number, name, rows, *answers, torch.ones_like(rows))
            return
        images = self._attack_batch(rows, member.ball, name)
        runs, done = member.usable_runs(self.logits.shape[1]), 0
        while done < len(runs):
            still = torch.nonzero(torch.isin(rows, self.remaining())).flatten()
            if not len(still):
                return
            attacked = select_rows(images, still)
            if self.start is not None and done == 0:
                attacked = replace(attacked, start=self.start[rows[still]].to(self.x))
            if isinstance(member, Selective) and member.from_nearest:
                attacked = replace(attacked, start=self.state["nearest"][rows[still]])
            together = 1 if attacked.start is not None else count_alike(runs[done:], len(still), self.batch_size)
            outcomes = carry_out_together(
                runs[done : done + together],
                attacked,
                # `record` evaluates the last point and counts it; a selective member needs the lowest margin.
                evaluate_last=self.selects,
                limit=self.batch_size,
                device=self.device,
                report=report,
            )
            done += together
            for found in outcomes:
                left = torch.nonzero(torch.isin(rows[still], self.remaining())).flatten()
                if not len(left):
                    return
                there = rows[still[left]]
                self.state["undefined"][there] |= found.undefined[left]
                answers = accept(member, attacked.x[left], found.point[left], attacked.radius[left])
                self.record(number, name, there, *answers, found.forward_passes[left])

    def _taking_part(self, member: AttackFunction) -> Tensor:
        """Return the rows of the robust images, or those that a selective member chooses."""
        rows = self.remaining()
        if isinstance(member, Selective):
            rows = rows[member.takes_part(Margins(self.state["margins"][rows]))]
        return rows

    def record(
        self, number: int, name: str, rows: Tensor, inputs: Tensor, accepted: Tensor, forward_passes: Tensor
    ) -> None:
        """Store a member's result. The images are evaluated again: a prediction may depend on the batch size by rounding."""
        tell_not_accepted(name, accepted)
        logits = self.logits_at(inputs, self.y[rows], finite=False)
        defined = torch.isfinite(logits).all(1)
        fooled = defined & (logits.argmax(1) != self.y[rows])
        self.state["undefined"][rows] |= ~defined
        self.state["forward passes"][rows] += forward_passes
        margins = torch.where(defined, margin(logits, self.y[rows]), torch.inf)
        known = Margins(self.state["margins"])
        if self.selects:
            nearer = margins < known.take(rows).lowest
            self.state["nearest"][rows[nearer]] = inputs[nearer]
        known.record(number, rows, margins)
        self.state["inputs"][rows] = inputs
        self.state["fooled by"][rows[fooled]] = number

    def _batches(self, rows: Tensor) -> list[Tensor]:
        return [rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)]

    def _generator(self, name: str) -> torch.Generator:
        """Return the same generator for every batch; random numbers differ from image to image by the image itself."""
        return randomness.stream(self.seed, "attack", name)

    def _attack_batch(self, rows: Tensor, ball: Ball, name: str) -> AttackBatch:
        x, y = self.x if len(rows) == len(self.x) else self.x[rows], self.y[rows]
        ball.require_inside_box(x)
        radius = ball.radii(x) if self.radius is None else ball.require_radii(self.radius[rows], x)
        streams = randomness.example_streams(self._generator(name), x, y)
        return AttackBatch(self.model, x, y, radius, streams, self.logits[rows])
