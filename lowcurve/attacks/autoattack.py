"""The reference AutoAttack of its authors, from the package pyautoattack."""

import logging
import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.attacks.base import BallAttack, Options
from lowcurve.attacks.state import require_logits
from lowcurve.attacks.unit_box import UnitBoxClassifier
from lowcurve.errors import InputError
from lowcurve.libraries import require_library
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.types import Classifier, Inputs, Labels

log = logging.getLogger("lowcurve")
FEWEST_CLASSES = 4
"""Its targeted losses divide by a difference with the third-largest logit."""


@dataclass(frozen=True)
class AutoAttack(BallAttack):
    """The reference AutoAttack of its authors (APGD-CE, APGD-T, FAB-T, Square); x itself where it finds nothing.

    Runs the package pyautoattack; install it by `pip install 'lowcurve[autoattack]'`. Pixels of another box are scaled to
    [0, 1]. With fewer than four classes APGD-T would fail, so it is left out and the log says so. The global random state,
    the trace function and the parameters' gradients are restored afterwards. Its random numbers are drawn for each batch,
    so the answer depends on the batch, unlike that of every other attack here.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        version: Version of AutoAttack.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Cost: about 1,400 gradients and 5,700 forward passes for an image that withstands.

    Reference: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks".
    """

    version: Literal["standard", "plus", "rand"] = "standard"

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        trace = sys.gettrace()
        pyautoattack = require_library("pyautoattack", install="'lowcurve[autoattack]'")
        if x.ndim != 4:
            hint = "use lowcurve.strong, which takes inputs of any rank"
            raise InputError("images of shape (batch, channels, height, width)", tuple(x.shape), hint)
        self.ball.require_inside_box(x)
        seed = int(randomness.integers((), 0, 2**31, generator=options.generator))
        if not len(x):
            return x
        scaled = UnitBoxClassifier(model, self.ball.box, x.device)
        with frozen(model), randomness.temporary_seed(seed, "AutoAttack"):
            with torch.no_grad():
                logits = call(model, x)
            require_logits(logits, y)
            try:
                found = self._attack(pyautoattack, scaled, scaled.from_pixels(x), y, logits.shape[1], seed)
            finally:
                sys.settrace(trace)
        # The projection removes the rounding errors of the scaling.
        return self.ball.project(scaled.to_pixels(found), x).detach()

    def _attack(self, pyautoattack: Any, model: nn.Module, x: Tensor, y: Labels, classes: int, seed: int) -> Tensor:
        low, high = self.ball.box
        norms: dict[str, Literal["Linf", "L2", "L1"]] = {"l_inf": "Linf", "l_2": "L2", "l_1": "L1"}
        attacks = None
        if classes < FEWEST_CLASSES:
            log.warning(
                "AutoAttack without APGD-T, which needs %d classes; this network has %d", FEWEST_CLASSES, classes
            )
            attacks = ["apgd-ce", "fab", "square"]
        reference = pyautoattack.AutoAttack(
            model,
            norm=norms[self.ball.norm.name],
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
