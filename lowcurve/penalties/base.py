"""The base class of all penalties."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lowcurve.analysis.calculus import Jet
from lowcurve.errors import InputError
from lowcurve.penalties.differentiation import Differentiation
from lowcurve.randomness import stream


class Penalty(ABC):
    """A function of a field's value and derivatives at the training inputs, to be minimized in addition to the loss.

    A subclass implements `evaluate` and overrides the attributes whose defaults do not hold for it. The defaults are safe
    for every penalty: they only cost time where a penalty needs less.

    Attributes:
        differentiation: Way in which the penalty is differentiated in the parameters; see `apply_to_gradients`.
        differentiates_twice: True if the gradient in the parameters is that of an input gradient. Some distributed
            strategies compute such gradients wrongly, and compiled networks do not support them.
        detaches_gradient: True if the penalty uses the clean input gradient as a constant only. The loss's own backward
            pass then computes that gradient.
        rounds_like_the_loss: True if bfloat16 changes the penalty no more than the loss, so that autocast may do both. A
            penalty on small differences has to be computed in the precision of the weights.
        data_free: True if the penalty depends on the field's model only. It then returns one number for the whole batch.

    Example:
        >>> class Confidence(Penalty):
        ...     differentiates_twice = False
        ...
        ...     def evaluate(self, jet, generator):
        ...         return jet.logits.square().sum(1)
        >>> Confidence().differentiates_twice, Confidence().data_free
        (False, False)
    """

    data_free = False

    @property
    def differentiation(self) -> Differentiation:
        """Way in which the penalty is differentiated in the parameters."""
        return "exact"

    @property
    def differentiates_twice(self) -> bool:
        """True if the gradient in the parameters is that of an input gradient."""
        return True

    @property
    def rounds_like_the_loss(self) -> bool:
        """True if bfloat16 changes the penalty no more than the loss."""
        return self.data_free

    @property
    def detaches_gradient(self) -> bool:
        """True if the penalty uses the clean input gradient as a constant only."""
        return self.data_free

    @abstractmethod
    def evaluate(self, jet: Jet, generator: torch.Generator) -> Tensor:
        """Compute the penalty, with all random numbers from `generator`."""

    def __call__(self, jet: Jet, *others: object, generator: torch.Generator | None = None, seed: int = 0) -> Tensor:
        """Compute the penalty.

        Args:
            jet: Values and gradients of the loss at the training inputs.
            others: Leave out. With a network and images the error says what to write instead.
            generator: Source of the random numbers; by default one made from `seed`.
            seed: Seed of the random numbers, used without a generator. In a training loop, give the number of the step.

        Returns:
            One number per example, or a scalar if the penalty is `data_free`, attached to the parameters.

        Raises:
            InputError: If it is called with a network and images.
        """
        if others or not isinstance(jet, Jet):
            hint = "write lc.regularized(model, images, labels, curvature=penalty, weight=0.03)"
            raise InputError("the loss and its gradient at the images", type(jet).__name__, hint)
        return self.evaluate(jet, generator or stream(seed, "penalty"))

    def at_scale(self, factor: float) -> "Penalty":  # noqa: ARG002 (subclasses use it)
        """Return the penalty with its scale h multiplied by a factor.

        Raises:
            InputError: If the penalty has no scale.
        """
        raise InputError("a penalty with a scale h to schedule", type(self).__name__, "leave out scale_schedule")
