"""Judge a network by attacks of other libraries: alone, in a suite with this package's, and in the audit."""

import foolbox
import torch
from torch import nn

import lowcurve as lc

digits = lc.load("digits")
test = digits.test.take(slice(40))
torch.manual_seed(0)
layers = nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)
model = nn.Sequential(lc.Normalize(*digits.statistics()), *layers)
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(digits.train.x), digits.train.y).backward()
    optimizer.step()
model.eval()

# An attack of foolbox in the ball, a minimum-norm attack of foolbox, and a function of your own.
pgd = lc.attacks.foreign(foolbox.attacks.LinfPGD(steps=20), "linf", 0.1)
nearest = lc.attacks.foreign(foolbox.attacks.LinfDeepFoolAttack(), "linf", 0.1)


def one_step(model, x, y, eps):
    """Move every pixel by the radius in the direction of the gradient's sign."""
    x = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(x), y).backward()
    return (x + eps * x.grad.sign()).clamp(0, 1).detach()


own = lc.attacks.foreign(one_step, "linf", 0.1)

members = ("one step", own), ("foolbox PGD", pgd), ("foolbox DeepFool", nearest), ("ours", lc.PGD("linf", 0.1))
suite = lc.attacks.Suite(members)
result = lc.attack(model, test, suite, progress=False)
print(result)

# The smallest radius at which an attack fools the network: by bisection, or at once from a minimum-norm attack.
radii = lc.smallest_radius(
    model, test, lc.attacks.foreign(foolbox.attacks.LinfDeepFoolAttack(), "linf"), progress=False
)
print(radii)

assert result.robust.mean() <= lc.attack(model, test, pgd, progress=False).robust.mean()
assert (radii.radius[~result.robust] <= 0.3).all()
