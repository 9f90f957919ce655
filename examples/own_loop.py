"""Add a curvature penalty to a training loop of your own."""

import torch
from torch import nn

import lowcurve as lc
from lowcurve.analysis.calculus import Jet

data = lc.load("digits")
model = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
optimizer = torch.optim.Adam(model.parameters(), 4e-3)
penalty, weight = lc.CURE(h=1.0), 0.03
generator = torch.Generator().manual_seed(0)

model.eval()  # BatchNorm, if there is any, keeps its statistics
images, labels = data.train.pixels(slice(None)), data.train.y
means = []
for epoch in range(3):
    total = 0.0
    for rows in torch.randperm(len(labels), generator=generator).split(64):
        x, y = images[rows], labels[rows]
        jet = Jet(lc.loss_field(model, y), x)  # the loss and its input gradient, shared with the penalty
        curvature = penalty(jet, generator=generator).mean()
        loss = jet.values.mean() + weight * curvature
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += curvature.item()
    means.append(total)
    print("epoch", epoch, "mean penalty", total)
print("accuracy", lc.accuracy(model, data.test))

assert nn.functional.cross_entropy(model(images), labels) < 1.0
