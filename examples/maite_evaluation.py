"""Evaluate a network by MAITE's own program: clean accuracy, accuracy after an attack, and curvature."""

from maite.tasks import evaluate

import lowcurve as lc
from lowcurve.integrations.maite import MaiteAccuracy, MaiteAttack, MaiteDataset, MaiteMeasure, MaiteModel

digits = lc.load("digits")
network = lc.Network("small-convnet", digits.shape, 10, *digits.statistics(), width=4).build(seed=0)
lc.fit(
    network, lc.Objective(), digits.train, lc.Optimization(epochs=3, batch_size=64, learning_rate=5e-3), progress=False
)

# The parts fit MAITE's protocols, so its functions take them as they are.
model = MaiteModel(network, "small network", digits.classes)
data = MaiteDataset(digits.test.take(range(64)), "digits, 64 test images")
attack = MaiteAttack(lc.PGD("linf", 1 / 16, steps=5), network, "PGD-5")

clean, _, _ = evaluate(model=model, dataset=data, metric=MaiteAccuracy(), batch_size=32)
robust, _, _ = evaluate(model=model, dataset=data, metric=MaiteAccuracy(), batch_size=32, augmentation=attack)
curvature, _, _ = evaluate(model=model, dataset=data, metric=MaiteMeasure(network, data, lc.Curvature()), batch_size=32)
print(clean)
print(robust)
print(curvature)

assert robust["accuracy"] <= clean["accuracy"]
