"""Add a curvature penalty to a training loop of your own."""

import torch
from torch import nn

import lowcurve as lc

data = lc.load("digits")
model = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
optimizer = torch.optim.Adam(model.parameters(), 4e-3)
penalty, weight = lc.CURE(h=1.0), 0.03

torch.manual_seed(0)  # for the order of the images
model.eval()  # BatchNorm, if there is any, keeps its statistics
images, labels = data.train.pixels(slice(None)), data.train.y
step = 0
for epoch in range(3):
    total = 0.0
    for rows in torch.randperm(len(labels)).split(64):
        x, y = images[rows], labels[rows]
        jet = lc.analysis.Jet(lc.loss_field(model, y), x)  # the loss and its input gradient, shared with the penalty
        curvature = penalty(jet, seed=step)  # one number per image; the seed matters for random penalties alone
        loss = jet.values.mean() + weight * curvature.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += curvature.sum().item()
        step += 1
    print("epoch", epoch, "mean penalty", total / len(labels))
print("accuracy", lc.accuracy(model, data.test))

assert nn.functional.cross_entropy(model(images), labels) < 1.0
