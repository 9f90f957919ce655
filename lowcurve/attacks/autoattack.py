"""The reference AutoAttack of its authors, through the package pyautoattack: taken, not written again."""

import importlib.util
import logging
import sys
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.attacks.base import BallAttack, Options
from lowcurve.attacks.state import require_logits
from lowcurve.errors import InputError
from lowcurve.models.modes import frozen
from lowcurve.types import Classifier, Inputs, Labels

log = logging.getLogger("lowcurve")
FEWEST_CLASSES = 4
"""Its targeted losses divide by a difference with the third largest logit."""


@dataclass(frozen=True)
class AutoAttack(BallAttack):
    """x' = what AutoAttack finds (APGD-CE, APGD-T, FAB-T, Square), x itself where it finds nothing.

    Around the package: pixels of another box are scaled to its [0, 1]; with fewer than four classes, where it would fail,
    APGD-T is left out and the log says so; the global random state, the trace function of a debugger or of a coverage
    tool, and the parameters' gradients are given back as they were. Its random numbers are drawn per batch, so here, and
    only here, the answer depends on the batch. Needs `pip install 'lowcurve[autoattack]'`.

    Cost: for an image that stands about 1,400 gradients and 5,700 forward passes.

    Reference: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks".
    """

    version: Literal["standard", "plus", "rand"] = "standard"

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """The adversarial inputs x', of x's shape."""
        if importlib.util.find_spec("pyautoattack") is None:
            raise InputError("the package pyautoattack", "none", "write pip install 'lowcurve[autoattack]'")
        if x.ndim != 4:
            hint = "use lowcurve's own suite strong, which takes inputs of any rank"
            raise InputError("images of shape (batch, channels, height, width)", tuple(x.shape), hint)
        self.ball.require_inside_box(x)
        seed = int(randomness.integers((), 0, 2**31, generator=options.generator))
        if not len(x):
            return x
        low, high = self.ball.box
        trace = sys.gettrace()
        scaled = _Scaled(model, low, high)
        with frozen(scaled), randomness.temporary_seed(seed, "AutoAttack"):
            with torch.no_grad():
                logits = model(x)
            require_logits(logits, y)
            try:
                found = self._found(scaled, (x - low) / (high - low), y, logits.shape[1], seed)
            finally:
                sys.settrace(trace)
        # Back in our box the rounding of the scaling is undone by the ball itself.
        return self.ball.project(low + found * (high - low), x).detach()

    def _found(self, model: nn.Module, x: Tensor, y: Labels, classes: int, seed: int) -> Tensor:
        import pyautoattack

        low, high = self.ball.box
        norm: Literal["Linf", "L2"] = "Linf" if self.ball.norm.name == "l_inf" else "L2"
        attacks = None
        if classes < FEWEST_CLASSES:
            log.warning("AutoAttack without APGD-T: that one needs %d classes, this is %d", FEWEST_CLASSES, classes)
            attacks = ["apgd-ce", "fab", "square"]
        reference = pyautoattack.AutoAttack(
            model,
            norm=norm,
            eps=self.ball.radius / (high - low),
            version="custom" if attacks else self.version,
            attacks=attacks,
            device=x.device,
            seed=seed,
        )
        reference.apgd_targeted.n_target_classes = min(reference.apgd_targeted.n_target_classes, classes - 1)
        reference.fab.n_target_classes = min(reference.fab.n_target_classes, classes - 1)
        answer = reference.run_standard_evaluation(x, y, batch_size=len(x))
        return torch.as_tensor(answer[0] if isinstance(answer, tuple) else answer)


class _Scaled(nn.Module):
    """The classifier on inputs in [0, 1] in place of its own box."""

    def __init__(self, model: Classifier, low: float, high: float) -> None:
        super().__init__()
        self.model, self.low, self.high = model, low, high

    def forward(self, u: Tensor) -> Tensor:
        return self.model(self.low + u * (self.high - self.low))
