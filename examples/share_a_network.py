"""Save a converted network for the Hub, for ONNX Runtime and for a verifier, and load it again."""

import tempfile
from pathlib import Path

import torch

import lowcurve as lc
from lowcurve.integrations.cards import card_of_audit
from lowcurve.integrations.exporting import export_onnx
from lowcurve.integrations.hub import HubNetwork
from lowcurve.integrations.vnnlib import write_instances
from lowcurve.models import ConvertedNetwork, SmoothConversion

digits = lc.load("digits")
test = digits.test.take(slice(20))
network = lc.Network("small-convnet", digits.shape, 10, *digits.statistics(), width=4)
source = ConvertedNetwork(network, SmoothConversion(), digits.shape)
model = source.build(seed=0)
lc.fit(model, lc.Objective(), digits.train, lc.Optimization(epochs=8), progress=False)

# The card holds the measured numbers, their conditions and the audit's verdict.
attacked = lc.attack(model, test, lc.PGD("linf", 0.1), progress=False)
budget = lc.evaluation.audit.Budget(queries=10, noise_draws=10, spsa_draws=2, spsa_steps=2)
audit = lc.audit(model, test, "linf", 0.1, budget=budget, progress=False)
shared = HubNetwork.of(source, model, card=card_of_audit("A small network on digits", attacked, audit))

folder = Path(tempfile.mkdtemp())
shared.save_pretrained(folder / "hub")  # shared.push_to_hub("you/small-digits") uploads the same files
again = HubNetwork.from_pretrained(folder / "hub")

onnx = export_onnx(model, folder / "network.onnx", test.x)  # folded: plain layers, any batch size
problem = write_instances(model, test, "linf", 0.01, folder=folder / "problem")
print(onnx, problem.images, sep="\n")

assert torch.equal(again(test.x), model(test.x))
assert onnx.difference is None or onnx.difference < 1e-5
