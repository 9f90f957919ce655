"""Find the decision boundary near images, its curvature there, and paths within one class's region."""

import torch

import lowcurve as lc
from lowcurve.attacks import DeepFool
from lowcurve.geometry import (
    NormalCurvatures,
    PathSearch,
    RegionProjection,
    find_boundary_point,
    logit_difference,
)

data = lc.load("digits")
model = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
lc.fit(model, lc.Objective(), data.train, lc.Optimization(epochs=5, batch_size=64, learning_rate=4e-3))

# 1. The nearest boundary: DeepFool crosses it, bisection finds the crossing.
x, y = data.test.pixels(slice(30)), data.test.y[:30]
with torch.no_grad():
    correct = model(x).argmax(1) == y
x, y = x[correct], y[correct]
across = DeepFool("l2")(model, x, y)
with torch.no_grad():
    others = model(across).scatter(1, y[:, None], -torch.inf).argmax(1)
decision = logit_difference(model, y, others)  # positive on the side of the true class
boundary = find_boundary_point(decision, x, across)
distance = (boundary.point - x).flatten(1).norm(dim=1)
print("median l_2 distance to the boundary:", float(distance.median()))

# 2. How it bends there. A ReLU network bends in kinks alone, so a scale h is needed.
curvatures = NormalCurvatures(h=0.1)(decision, boundary.point)
print("median largest principal curvature:", float(curvatures["largest principal curvature"].median()))

# 3. Paths between two images of one class that never leave its region.
zeros = [i for i in range(len(data.test)) if int(data.test.y[i]) == 0][:6]
ends, labels = data.test.pixels(zeros), data.test.y[zeros]
search = PathSearch(RegionProjection(DeepFool("l2")), spacing=0.01)
paths = search(model, ends[:3], ends[3:], labels[:3])
print(paths.statements())

assert boundary.crossed.all()
assert paths.found.all()
