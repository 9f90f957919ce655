"""Add a curvature penalty to a training loop of your own."""

import torch
from torch import nn

import lowcurve as lc

data = lc.load("digits")
model = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
optimizer = torch.optim.Adam(model.parameters(), 4e-3)
curvature = lc.CURE(h=1.0)

torch.manual_seed(0)  # for the order of the images
model.eval()  # BatchNorm, if there is any, keeps its statistics
images, labels = data.train.pixels(slice(None)), data.train.y
step = 0
for epoch in range(3):
    total = 0.0
    for rows in torch.randperm(len(labels)).split(64):
        x, y = images[rows], labels[rows]
        loss, logs = lc.regularized(model, x, y, curvature=curvature, weight=0.03, step=step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += logs["curvature"].item() * len(y)
        step += 1
    print("epoch", epoch, "mean penalty", total / len(labels))
print("accuracy", lc.accuracy(model, data.test))

assert nn.functional.cross_entropy(model(images), labels) < 1.0
