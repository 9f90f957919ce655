"""Find the decision boundary near an image, how it bends there, and a path within one class's region."""

import lowcurve as lc

data = lc.load("digits")
model = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
lc.fit(model, lc.Objective(), data.train, lc.Optimization(epochs=5, batch_size=64, learning_rate=4e-3))
images = data.test.take(slice(20))

nearest = lc.smallest_radius(model, images, lc.attacks.MinimalNorm("l2"))
print(nearest)
