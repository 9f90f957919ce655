"""Attacks over a data set: who stands, how far each image moved, which attack it fell to."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.norms import L2, Ball, Norm, as_norm
from lowcurve.attacks import Suite
from lowcurve.attacks.active_set import IterativeAttack, carry_out, count_forward_passes
from lowcurve.attacks.relay import Relay
from lowcurve.attacks.state import AttackBatch, select_rows
from lowcurve.data.batches import Examples
from lowcurve.data.coercion import Data, Labels
from lowcurve.errors import InputError
from lowcurve.evaluation.arguments import members_of, require_attack, split_arguments
from lowcurve.evaluation.attack_result import CLEAN, AttackResult
from lowcurve.evaluation.measuring import are_probabilities, logits_of, require_examples
from lowcurve.evaluation.sharing import Ticker, gather, share_of
from lowcurve.losses import margin
from lowcurve.models.modes import frozen
from lowcurve.progress import choose_progress
from lowcurve.types import AttackFunction, Progress

log = logging.getLogger("lowcurve")
PROBABILITIES = (
    "expected logits, received probabilities (in [0, 1], of sum 1); return what goes into softmax, or gradients vanish where "
    "the network is sure and its robust accuracy is too high"
)
_WARNED: WeakSet[nn.Module] = WeakSet()  # once a network is enough
CHUNK = 1024
"""So many examples are attacked by one member after another before the next ones; what is done is kept then."""


class Ledger(Protocol):
    """Where one evaluation keeps what it has finished, so that it goes on where it was interrupted. A dict will do; another
    network, seed, radius or suite wants another one."""

    def get(self, key: str, /) -> Any: ...

    def __setitem__(self, key: str, value: Any, /) -> None: ...


def attack(
    model: nn.Module,
    images: Data,
    labels: Labels | AttackFunction | None = None,
    method: AttackFunction | None = None,
    *,
    seed: int = 0,
    radius: Tensor | None = None,
    batch_size: int = 256,
    progress: Progress[int] | bool | None = None,
    heading: str = "attacking",
    ledger: Ledger | None = None,
    fabric: Any = None,
) -> AttackResult:
    """Attack every image and measure success and distance on the attacked images.

    Called as attack(model, images, labels, method) or attack(model, data, method).

    Args:
        model: Network from pixels in [0, 1] to logits. It is evaluated in eval mode and returned in its own mode.
        images: Images, or images with their labels; see `as_examples`.
        labels: True labels, unless `images` has them.
        method: An attack, or a `Suite` whose members are tried in order on the images that are still robust. Its norm is
            the norm of the distances; l_2 if it has none.
        seed: Seed of the attack's random numbers.
        radius: Radius of each image in place of the ball's, shape (N,), for this package's attacks.
        batch_size: Images in a batch. An image that is fooled leaves it at once and another one takes its place.
        progress: None for a progress bar in a terminal or a notebook, False for none.
        heading: Text of the progress bar.
        ledger: Where finished work is stored, and found again after an interruption; a dictionary will do.
        fabric: Lightning Fabric whose processes share the images; each process returns the whole result.

    Returns:
        An `AttackResult`. Neither batch size nor order of the images changes it: each has its own random numbers.

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
    examples, chosen = split_arguments(model, images, labels, method)
    method = require_attack(chosen)
    require_examples(model, examples)
    norm = norm_of(method)
    mine = share_of(fabric, len(examples))
    members = members_of(method)
    progress = choose_progress(progress, fabric)
    chunks = torch.split(mine, CHUNK)
    parts = []
    with frozen(model):
        for number, rows in enumerate(chunks):
            said = heading if len(chunks) == 1 else f"{heading}, {number + 1} of {len(chunks)}"
            own = None if radius is None else radius[rows]
            chunk = _Chunk.begun(model, examples.take(rows), own, batch_size, seed, members)
            ticker = Ticker(progress, said, sum(count_forward_passes(member) for _, member in members) * len(rows))
            _attack_chunk(chunk, members, ledger, f"rows {int(rows[0])} to {int(rows[-1])}", ticker)
            parts.append({**chunk.state, "distance": norm.length(chunk.state["inputs"] - chunk.x)})
    columns = {
        name: torch.cat([part[name] for part in parts])
        for name in ("inputs", "fallen to", "forward_passes", "distance")
    }
    if len(mine) < len(examples):
        columns = gather(columns, mine)
    names = np.array([*(name for name, _ in members), CLEAN, ""])
    fooled_by = names[columns["fallen to"].numpy()]
    distance, forward_passes = columns["distance"].numpy(), columns["forward_passes"].numpy()
    return AttackResult(fooled_by == "", distance, columns["inputs"], fooled_by, forward_passes, norm.name)


def _attack_chunk(
    chunk: "_Chunk", members: Sequence[tuple[str, AttackFunction]], ledger: Ledger | None, where: str, ticker: Ticker
) -> None:
    """One member after another on what is left, as far as the ledger does not hold it already."""
    reached = 0
    kept = None if ledger is None else ledger.get(where)
    if kept is not None:
        chunk.state = {column: torch.as_tensor(kept[column]) for column in chunk.state}
    tried = 0 if kept is None else int(kept["tried"])
    for number, (name, member) in enumerate(members):
        if number >= tried:
            chunk.attack(number, name, member, ticker.advance)
            if ledger is not None:
                ledger[where] = {"tried": number + 1, **{k: values.clone() for k, values in chunk.state.items()}}
        reached += count_forward_passes(member) * len(chunk.x)
        ticker.reach(reached)  # those who fell early, or to another one, are done too


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
    """Some of the examples, and what the attacks so far have done to them: state["fallen to"] is the number of the member
    that an example fell to, one more than the last for "wrong before", two more for "stands"; state["margin"] the lowest that
    was seen, at state["nearest"], which a relay begins with."""

    model: nn.Module
    x: Tensor
    y: Tensor
    logits: Tensor
    radius: Tensor | None
    batch_size: int
    seed: int
    stands: int
    relayed: bool
    state: dict[str, Tensor]

    @classmethod
    def begun(
        cls,
        model: nn.Module,
        few: Examples,
        radius: Tensor | None,
        batch_size: int,
        seed: int,
        members: Sequence[tuple[str, AttackFunction]],
    ) -> "_Chunk":
        like = next(model.parameters(), torch.zeros(()))
        x, y = few.pixels(slice(None)).to(like.dtype), few.y
        relayed = any(isinstance(member, Relay) for _, member in members)
        chunk = cls(model, x, y, x, radius, batch_size, seed, len(members) + 1, relayed, {})
        chunk.logits = chunk.seen(x, y)
        if are_probabilities(chunk.logits) and model not in _WARNED:
            _WARNED.add(model)
            log.warning("%s", PROBABILITIES)
        fooled_by = torch.where(chunk.logits.argmax(1) == y, len(members) + 1, len(members))
        chunk.state = {"inputs": x.clone(), "fallen to": fooled_by, "forward_passes": torch.ones_like(y)}
        if relayed:
            chunk.state |= {"nearest": x.clone(), "margin": margin(chunk.logits, y)}
        return chunk

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        """The logits, a batch at a time."""
        rows = self._batches(torch.arange(len(x)))
        return torch.cat([logits_of(self.model, x[k].to(self.device), y[k].to(self.device)).cpu() for k in rows])

    def left(self) -> Tensor:
        """Who still stands."""
        return torch.nonzero(self.state["fallen to"] == self.stands).flatten()

    def attack(self, number: int, name: str, member: AttackFunction, done: Callable[[int], None]) -> None:
        """Try one member on what is left."""
        left = self.left()
        if not len(left):
            return
        if not isinstance(member, IterativeAttack):
            points = []
            for rows in self._batches(left):
                x, y = self.x[rows].to(self.device), self.y[rows].to(self.device)
                points.append(member(self.model, x, y, generator=self._generator(name)).cpu())
            self.enter(number, left, torch.cat(points), torch.ones_like(left))
            return
        if isinstance(member, Relay):
            left = left[member.is_near(margin(self.logits[left], self.y[left]), self.state["margin"][left])]
        images = self._images(left, member.ball, name)
        for place, run in member.usable_runs(self.logits.shape[1]):
            still = torch.nonzero(torch.isin(left, self.left())).flatten()
            if not len(still):
                return
            those = select_rows(images, still).with_streams(place)
            if isinstance(member, Relay):
                those = replace(those, start=self.state["nearest"][left[still]])
            # Where the walk ended is looked at below, where it is counted, unless its highest point is wanted.
            found = carry_out(
                run,
                those,
                stop=True,
                evaluate_last=self.relayed,
                limit=self.batch_size,
                device=self.device,
                report=done,
            )
            self.enter(number, left[still], found.point, found.forward_passes)

    def enter(self, number: int, rows: Tensor, inputs: Tensor, forward_passes: Tensor) -> None:
        """What an attack found, looked at once more: who falls in a batch of this size has fallen."""
        logits = self.seen(inputs, self.y[rows])
        fallen = logits.argmax(1) != self.y[rows]
        self.state["forward_passes"][rows] += forward_passes
        if self.relayed:
            left = margin(logits, self.y[rows])
            nearer = left < self.state["margin"][rows]
            self.state["margin"][rows[nearer]] = left[nearer]
            self.state["nearest"][rows[nearer]] = inputs[nearer]
        self.state["inputs"][rows] = inputs
        self.state["fallen to"][rows[fallen]] = number

    def _batches(self, rows: Tensor) -> list[Tensor]:
        return [rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)]

    def _generator(self, name: str) -> torch.Generator:
        """Every batch gets the same: what differs from example to example comes from the examples."""
        return randomness.stream(self.seed, "attack", name)

    def _images(self, rows: Tensor, ball: Ball, name: str) -> AttackBatch:
        x, y = self.x[rows], self.y[rows]
        ball.require_inside_box(x)
        radius = ball.radii(x) if self.radius is None else ball.require_radii(self.radius[rows], x)
        streams = randomness.example_streams(self._generator(name), x, y)
        return AttackBatch(self.model, x, y, radius, streams, self.logits[rows])
