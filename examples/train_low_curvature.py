"""Fine-tune a trained network with CURE: curvature falls and robust accuracy rises, without adversarial examples."""

import copy

import lowcurve as lc
from lowcurve.training import Schedule

data = lc.load("digits")
model = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
lc.fit(model, lc.Objective(), data.train, lc.Optimization(epochs=5, batch_size=64, learning_rate=4e-3))

# h is an l_2 length in pixel units, about that of the attack: 0.125 * sqrt(64) = 1. It grows over the first quarter.
penalty = lc.Term(lc.CURE(h=1.0), weight=0.03, scale_schedule=Schedule(start=0.05, until=0.25))
tuned = copy.deepcopy(model)
history = lc.fit(
    tuned,
    lc.Objective(penalties={"curvature": penalty}),
    data.train,
    lc.Optimization(epochs=5, batch_size=64, learning_rate=2e-3),
)
print(history[-1])

images = data.test.take(slice(100))
curvature, robust = {}, {}
for name, network in {"standard": model, "CURE": tuned}.items():
    secant = lc.measure(network, images, lc.geometry.SecantCurvature(h=1.0))
    curvature[name] = lc.summarize(next(iter(secant.values()))).mean
    robust[name] = lc.attack(network, images, lc.PGD("linf", 0.125)).robust_accuracy
    print(name, "curvature at the attack's scale:", round(curvature[name], 2), "after PGD:", robust[name])

assert curvature["CURE"] < curvature["standard"]
assert robust["CURE"].value > robust["standard"].value
