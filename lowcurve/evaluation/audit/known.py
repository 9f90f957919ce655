"""Reuse the results of the suite that an audit accompanies, so that the audit does not repeat its attacks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from lowcurve.analysis.norms import as_norm
from lowcurve.attacks import APGD, PGD, Square
from lowcurve.attacks.minimal_within import MinimalNormWithin
from lowcurve.attacks.selective import Margins, NearlyFooled
from lowcurve.data.examples import Examples
from lowcurve.evaluation.attack_result import UNDEFINED, AttackResult
from lowcurve.types import AttackFunction

FOLLOW_GRADIENTS = (PGD, APGD, MinimalNormWithin)
Members = Sequence[tuple[str, AttackFunction]]


def is_at_least(known: object, wanted: object) -> bool:
    """Return whether an attack has another one's settings, with no fewer steps, starts, targets and queries.

    An attack on every image is at least the same attack on nearly fooled ones.

    Example:
        >>> is_at_least(PGD("linf", 0.1, steps=40), PGD("linf", 0.1)), is_at_least(PGD("linf", 0.2), PGD("linf", 0.1))
        (True, False)
        >>> attack = APGD("linf", 0.1)
        >>> is_at_least(attack, NearlyFooled(attack)), is_at_least(NearlyFooled(attack), attack)
        (True, False)
    """
    if isinstance(wanted, NearlyFooled):
        if not isinstance(known, NearlyFooled):
            return is_at_least(known, wanted.attack)
        chosen = known.near >= wanted.near and known.matched <= wanted.matched
        return chosen and is_at_least(known.attack, wanted.attack)
    if type(known) is not type(wanted):
        return False
    pairs = [(getattr(known, field.name), getattr(wanted, field.name)) for field in fields(wanted)]  # type: ignore[arg-type]
    return all(mine >= theirs if type(theirs) is int else mine == theirs for mine, theirs in pairs)


def fooled_by_gradients(attacked: AttackResult) -> np.ndarray:
    """Return which images a member of the suite fooled that follows gradients."""
    names = [name for name, member in attacked.members if follows_gradients(member)]
    return np.isin(attacked.fooled_by, names)


def follows_gradients(member: AttackFunction) -> bool:
    """Return whether a member of a suite follows gradients alone.

    Args:
        member: The attack, on all images or on nearly fooled ones.
    """
    return isinstance(_plain(member), FOLLOW_GRADIENTS)


def _plain(member: AttackFunction) -> AttackFunction:
    return member.attack if isinstance(member, NearlyFooled) else member


@dataclass(frozen=True)
class Searches:
    """Searches with Square that a suite has tried.

    Attributes:
        fooled: Which images they fooled.
        left: Which other correct images had only a shorter search than is wanted.
        share: How far the first of them lowered each margin, as a share of how far the members before it had. It is infinite
            where these lowered nothing.
        queries: Queries of the shortest and of the longest search, in words.
    """

    fooled: np.ndarray
    left: np.ndarray
    share: np.ndarray
    queries: str

    def take(self, rows: np.ndarray) -> "Searches":
        """Return the searches on some of the images."""
        return replace(self, fooled=self.fooled[rows], left=self.left[rows], share=self.share[rows])


def searches(attacked: AttackResult, wanted: Square) -> Searches | None:
    """Return a suite's searches with Square, or None if none has as many queries as are wanted.

    Args:
        attacked: Result of the suite.
        wanted: The search.
    """
    squares = {name: member for name, member in attacked.members if isinstance(_plain(member), Square)}
    enough = [name for name, member in squares.items() if is_at_least(_plain(member), wanted)]
    if not enough or attacked.margins is None:
        return None
    number = {name: place for place, (name, _) in enumerate(attacked.members)}
    tried = ~np.isnan(attacked.margins[:, [1 + number[name] for name in enough]]).all(1)
    fooled = np.isin(attacked.fooled_by, list(squares))
    share = Margins(torch.from_numpy(attacked.margins)).share_of_gain(min(number[name] for name in squares))
    counts = sorted({_plain(member).queries for member in squares.values()})  # type: ignore[attr-defined]
    queries = " to ".join(map(str, (counts[0], counts[-1])[: len(counts)]))
    return Searches(fooled, attacked.clean & ~fooled & ~tried, share.numpy(), queries)


def outlasted(attacked: AttackResult, wanted: Members) -> np.ndarray:
    """Return which images the suite has tried with all these attacks, or with longer ones, without success.

    Args:
        attacked: Result of the suite.
        wanted: Attacks with their names in the suite.
    """
    names = [name for name, _ in attacked.members]
    known = dict(attacked.members)
    if not wanted or not all(name in known and is_at_least(known[name], attack) for name, attack in wanted):
        return np.zeros(len(attacked.fooled_by), dtype=bool)
    later = names[1 + max(names.index(name) for name, _ in wanted) :]
    return np.isin(attacked.fooled_by, ("", UNDEFINED, *later))


def first_rows(attacked: AttackResult | None, examples: Examples) -> AttackResult | None:
    """Return a suite's result on the first of its images if these are the examples, else None.

    They are the same if the attacked images lie at the distances that the result holds.
    """
    count = len(examples)
    if attacked is None or attacked.kept_inputs is None or not attacked.members or len(attacked.robust) < count:
        return None
    few = attacked.take(slice(count))
    clean = examples.pixels(slice(None)).to(few.inputs.dtype)
    if few.inputs.shape != clean.shape or not few.norm:
        return None
    length = as_norm(few.norm).length(few.inputs - clean)
    return few if np.array_equal(length.numpy(), few.distance) else None
