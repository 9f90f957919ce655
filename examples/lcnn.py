"""Convert a network to an LCNN, train it, read its bounds, and fold it back to plain layers."""

import lowcurve as lc
from lowcurve.models import LCNNConversion, summary
from lowcurve.penalties import LCNNPenalty

data = lc.load("digits")
net = lc.Network("small-convnet", data.shape, len(data.classes), *data.statistics(), width=8).build(seed=0)
example = data.test.pixels(slice(8))

print(lc.inspect_layers(net, example, LCNNConversion()))
lcnn = lc.convert(net, LCNNConversion(), example=example)
print("largest change of a logit by the conversion:", lcnn.conversion_report.change)

penalty = lc.Term(LCNNPenalty(), weight=1.0)
settings = lc.Optimization(epochs=5, batch_size=64, learning_rate=4e-3)
lc.fit(lcnn, lc.Objective(penalties={"layers": penalty}), data.train, settings)
for layer in summary(lcnn):
    print(layer.name, layer.kind, "beta", layer.beta, "gamma", layer.gamma)

plain = lc.fold(lcnn, example=example)
print("largest difference after folding:", plain.folding_report.difference)
print("accuracy", lc.accuracy(lcnn, data.test), "folded", lc.accuracy(plain, data.test))

assert plain.folding_report.difference < 1e-3
