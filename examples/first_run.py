"""Train a standard network and a low-curvature one on digits, then compare curvature and robust accuracy."""

import lowcurve as lc

data = lc.load("digits")
standard = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
cure = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)

settings = lc.Optimization(epochs=4, batch_size=64, learning_rate=4e-3)
lc.fit(standard, lc.Objective(), data.train, settings)
curvature = lc.Term(lc.CURE(h=1.0), weight=0.03)
lc.fit(cure, lc.Objective(penalties={"curvature": curvature}), data.train, settings)

images = data.test.take(slice(100))
robust = {}
for name, model in {"standard": standard, "CURE": cure}.items():
    columns = lc.measure(model, images, lc.Curvature())
    result = lc.attack(model, images, lc.PGD("linf", 0.125))  # lc.strong(...) for a claim
    robust[name] = result.robust.mean()
    print(name, "normalized curvature", lc.summarize(columns["normalized curvature"]).median)
    print(result)

assert robust["CURE"] > robust["standard"]
