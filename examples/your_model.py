"""Measure and attack a plain PyTorch model with data in the forms in which people have it."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lowcurve as lc

# Your data: here NumPy arrays, pixels in [0, 1].
digits = lc.load("digits")
images, labels = digits.train.x.numpy(), digits.train.y.numpy()
test_images, test_labels = digits.test.x[:64].numpy(), digits.test.y[:64].numpy()
mean, std = [float(images.mean())], [float(images.std())]

# Your model: it expects normalized inputs, so the normalization becomes its first layer.
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(16 * 64, 10))
model = nn.Sequential(lc.Normalize(mean, std), net)

# Your training loop.
loader = DataLoader(TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), 64, shuffle=True)
optimizer = torch.optim.Adam(model.parameters(), 2e-3)
for _ in range(8):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
model.eval()

# The same numbers from arrays, from a dataset and from a loader.
dataset = TensorDataset(torch.from_numpy(test_images), torch.from_numpy(test_labels))
from_arrays = lc.measure(model, test_images, test_labels, lc.Curvature())
from_dataset = lc.measure(model, dataset, lc.Curvature())
from_loader = lc.measure(model, DataLoader(dataset, batch_size=16), lc.Curvature())
print(from_arrays)

print("accuracy", lc.accuracy(model, test_images, test_labels))
adversarial = lc.PGD("linf", 2 / 16)(model, test_images, test_labels)
print("after PGD", lc.accuracy(model, adversarial, test_labels))

name = "normalized curvature"
assert (from_arrays[name] == from_dataset[name]).all()
assert (from_arrays[name] == from_loader[name]).all()
