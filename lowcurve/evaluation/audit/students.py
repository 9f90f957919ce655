"""A student that imitates a network's outputs, as a substitute with gradients for attacks by transfer."""

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.evaluation.audit.state import AuditState

FEATURES = 1024
DRAWS = 15
"""Random points of the ball around each image on which the student learns, besides the image."""
SPREAD = 2.0
"""Standard deviation of what a feature's tanh is applied to."""
RIDGE = 1e-4
"""Part of the features' mean square that is added to each."""


class Student(nn.Module):
    """Random features, tanh of a linear map, with a linear layer to the logits.

    Args:
        center: Mean of the points, flat, shape (pixels,).
        inner: Weights of the features, shape (pixels, features).
        bias: Their offsets, shape (features,).
        outer: Weights of the logits, shape (features, classes).
    """

    center: Tensor
    inner: Tensor
    bias: Tensor
    outer: Tensor

    def __init__(self, center: Tensor, inner: Tensor, bias: Tensor, outer: Tensor) -> None:
        super().__init__()
        for name, value in (("center", center), ("inner", inner), ("bias", bias), ("outer", outer)):
            self.register_buffer(name, value)

    def features(self, x: Tensor) -> Tensor:
        """Return the features, shape (batch, features)."""
        return torch.tanh((x.flatten(1) - self.center) @ self.inner + self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.features(x) @ self.outer


def distill(state: AuditState) -> Student:
    """Return a student of the audited network, fitted by least squares to its logits in the balls of the correct images.

    It needs no gradient of the network and no training loop, so it takes a second.

    Args:
        state: The state of the audit.

    Cost: 16 forward passes for each correct image, and a linear system of 1,024 unknowns.

    Reference: Papernot et al. 2017, section 4 (substitute networks); Carlini et al. 2019.
    """
    streams = state.streams("audit", "student")
    points = torch.cat([state.x, *(state.ball.sample(state.x, streams.at(draw)) for draw in range(DRAWS))])
    logits = state.logits_at(points, state.y.repeat(1 + DRAWS)).to(points)
    center = points.flatten(1).mean(0)
    length = float((points.flatten(1) - center).norm(dim=1).mean()) or 1.0
    draws = randomness.stream(state.seed, "audit", "student features")
    inner = randomness.normal(points.new_empty(len(center), FEATURES), generator=draws) * SPREAD / length
    bias = randomness.normal(points.new_empty(FEATURES), generator=draws)
    student = Student(center, inner, bias, points.new_zeros(FEATURES, logits.shape[1]))
    phi, wanted = student.features(points).double(), (logits - logits.mean(1, keepdim=True)).double()
    gram = phi.T @ phi
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    student.outer = torch.linalg.solve(gram, phi.T @ wanted).to(points)
    return student.to(state.like)
