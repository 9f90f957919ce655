"""Measure the same network's curvature in three ways, and see why a ReLU network needs a scale."""

import lowcurve as lc
from lowcurve.geometry import Curvature, SecantCurvature
from lowcurve.losses import margin

data = lc.load("digits")
networks = {}
for nonlinearity in ("relu", "softplus"):
    model = lc.Network(
        "small-convnet", data.shape, len(data.classes), *data.statistics(), nonlinearity=nonlinearity, width=8
    ).build(seed=0)
    lc.fit(model, lc.Objective(), data.train, lc.Optimization(epochs=5, batch_size=64, learning_rate=4e-3))
    networks[nonlinearity] = model

images = data.test.take(slice(50))
exact = {}
for name, model in networks.items():
    of_loss = lc.measure(model, images, Curvature())
    of_margin = lc.measure(model, images, Curvature(), loss=margin)
    at_scale = lc.measure(model, images, SecantCurvature(h=1.0))
    exact[name] = lc.summarize(of_margin["Hessian norm"]).median
    print(name)
    print("  of the loss, at the point:   ", lc.summarize(of_loss["Hessian norm"]).median)
    print("  of the margin, at the point: ", exact[name])
    print("  of the loss, at the scale 1: ", lc.summarize(next(iter(at_scale.values()))).median)

assert exact["relu"] < 1e-6 < exact["softplus"]
