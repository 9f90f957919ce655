"""Attack a network and one that hides its gradients, and let the audit tell them apart."""

import torch
from torch import nn

import lowcurve as lc

data = lc.load("digits")
model = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
lc.fit(model, lc.Objective(), data.train, lc.Optimization(epochs=4, batch_size=64, learning_rate=4e-3))


class Rounded(nn.Module):
    """A "defense": round the pixels to eight grey levels. It has no gradient, so gradient attacks see nothing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.net(torch.round(x * 7) / 7)


images = data.test.take(slice(40))
verdicts = {}
for name, candidate in {"plain": model, "rounded": Rounded(model).eval()}.items():
    print(name, "after PGD:", lc.attack(candidate, images, lc.PGD("linf", 0.125)).robust_accuracy)
    verdicts[name] = lc.audit(candidate, images, "linf", 0.125)
    print(verdicts[name])

assert verdicts["plain"].reliable
assert not verdicts["rounded"].reliable
