"""A relay of attacks: each run begins at the point of highest loss of the runs before it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve.analysis.norms import Ball, Norm
from lowcurve.attacks.active_set import IterativeAttack, carry_out
from lowcurve.attacks.base import Options
from lowcurve.attacks.selective import Margins, Selective
from lowcurve.attacks.state import AttackRun, prepare, require_finite_logits, select_rows
from lowcurve.errors import InputError
from lowcurve.losses import margin
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.types import Classifier, Inputs, Labels


@dataclass(frozen=True)
class Relay(Selective):
    """Alternate between attacks: each run begins at the point of highest loss of the runs before it.

    Gradient ascent stops at a local maximum of the loss. A random search leaves it, but ascends slowly. Alternating, they
    reach a higher loss than either alone. In a `Suite` the relay begins at the best point of the other members, and only
    with images that are nearly fooled. Their margin z_y - max z_k at that point is at most `near` times the clean margin,
    a ratio that does not depend on the scale of the logits. Without a start in the call every image takes part.

    Args:
        members: Attacks in one ball that all maximize the margin loss.
        near: Largest margin of an image that takes part, as a fraction of its clean margin.
        searched: Largest margin at the answer of the last member that tried the image. After a short search without gradients,
            it tells on which images such a search gets anywhere.

    Raises:
        InputError: If the members have different balls.

    Cost: that of its runs, for the images that are nearly fooled.

    Example:
        >>> from lowcurve.attacks.pgd import PGD
        >>> from lowcurve.attacks.square import Square
        >>> from lowcurve.losses import margin_loss
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        >>> attack = Relay((Square("linf", 0.1, queries=20), PGD("linf", 0.1, steps=5, loss=margin_loss)))
        >>> attack(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])
    """

    from_nearest = True
    members: tuple[IterativeAttack, ...]
    near: float = 0.1
    searched: float = 0.25

    def __post_init__(self) -> None:
        if len({member.ball for member in self.members}) != 1:
            found = [member.ball for member in self.members]
            raise InputError("attacks in one ball", found, "write Relay((Square(ball), PGD(ball, loss=margin_loss)))")

    def takes_part(self, margins: Margins) -> Tensor:
        """Return which images take part; see `Selective.takes_part`."""
        return super().takes_part(margins) & (margins.last <= self.searched * margins.clean)

    @property
    def ball(self) -> Ball:
        """The ball of all members."""
        return self.members[0].ball

    @property
    def norm(self) -> Norm:
        """The norm of the ball."""
        return self.ball.norm

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """The runs of all members, in turn."""
        return tuple(run for member in self.members for run in member.runs)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape; the given start where an image takes no part."""
        with frozen(model), torch.no_grad():
            batch, start = prepare(model, x, y, self.ball, options), options.start
            best, rows = x.clone() if start is None else start.clone(), torch.arange(len(x), device=x.device)
            if start is not None and len(x):
                margins = Margins.begin(margin(batch.clean_logits, y), 1)
                margins.record(0, rows, margin(call(model, start), y))
                rows = self.takes_part(margins).nonzero()[:, 0]
            few = select_rows(batch, rows)
            for number, run in enumerate(self.runs):
                outcome = carry_out(run, few.with_streams(number), stop=False)
                require_finite_logits(outcome.undefined)
                few = replace(few, start=outcome.point)
            best[rows] = few.x if few.start is None else few.start
        return best.detach()
