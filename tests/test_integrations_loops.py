"""Penalties, measures and attacks in the loops of Lightning, transformers and torchmetrics, with the real packages."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lowcurve as lc
from lowcurve.integrations.loops import Batches, require_statistics, summarize_columns
from lowcurve.randomness import stream, temporary_seed

pytestmark = pytest.mark.filterwarnings("ignore")  # of other libraries
X = torch.rand(12, 3, 8, 8, generator=stream(0, "images"))
Y = torch.arange(12) % 3
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PGD = lc.PGD("linf", 0.05, steps=3)
CURE = lc.CURE(h=0.5)


def normalized() -> torch.Tensor:
    return (X - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def network() -> nn.Sequential:
    with temporary_seed(0, "integrations"):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Softplus(), nn.Dropout(0.2), nn.Linear(16, 3))


def module_of(library: str):
    pytest.importorskip(library, reason=f"{library} is not installed")
    import lowcurve.integrations

    return getattr(lowcurve.integrations, library)


def expected_statistics(model: nn.Module, x=X, y=Y) -> dict[str, float]:
    return summarize_columns(lc.measure(model.eval(), x, y, lc.Curvature(), progress=False))


def agree(found, exact, prefix="") -> None:
    for name, value in exact.items():
        assert float(found[f"{prefix}{name}"]) == pytest.approx(value, rel=1e-3), name


# --- batches


def test_normalized_batches_become_pixels():
    found, y = Batches(MEAN, STD)({"pixel_values": normalized(), "labels": Y})
    torch.testing.assert_close(found, X)
    assert torch.equal(y, Y)
    black, _ = Batches((0.1,), (0.3,))((-torch.full((1, 1, 1, 1), 0.1) / 0.3, Y[:1]))
    assert 0 <= black.item() < 1e-6
    own, _ = Batches(read=lambda batch: (batch["a"], batch["b"]))({"a": X, "b": Y})
    assert own is X
    with pytest.raises(lc.InputError, match=r"pixels in \[0, 1\], got values from .*Give mean= and std="):
        Batches()((normalized(), Y))
    with pytest.raises(lc.InputError, match="mean and std together"):
        Batches(mean=MEAN)
    with pytest.raises(lc.InputError, match="statistics among mean"):
        require_statistics(["median", "mode"])


def test_missing_numbers_are_counted():
    found = summarize_columns({"slope": np.array([1.0, np.nan])}, ["mean"])
    assert found == {"slope/mean": 1.0, "slope/missing": 1.0}


def test_the_parts_can_be_imported_without_their_libraries():
    for name in ("torchmetrics", "lightning", "transformers"):
        assert getattr(lc.integrations, name).__doc__


# --- torchmetrics


def shared_with(other) -> dict:
    """Options of a metric that gathers its states with those of another one, as a second process would hold them."""

    def gather(value, group=None):  # noqa: ARG001 (torchmetrics' signature)
        mine = next(states)
        if isinstance(mine, list):
            mine = torch.cat(mine) if mine else torch.tensor([], dtype=other.dtype)
        assert value.dtype == mine.dtype
        assert value.ndim == mine.ndim
        return [value, mine]

    states = iter([getattr(other, name) for name in other._reductions])
    return {"dist_sync_fn": gather, "distributed_available_fn": lambda: True}


@pytest.mark.parametrize("parts", [(slice(5), slice(5, 12)), (slice(12), None)], ids=["both", "one is empty"])
def test_measures_of_several_processes_are_those_of_all_images(parts):
    metrics = module_of("torchmetrics")
    model = network().train()
    exact, exact_robust = expected_statistics(copy.deepcopy(model)), lc.attack(model, X, Y, PGD).robust
    other, other_robust = metrics.Measures(), metrics.RobustAccuracy(PGD)
    if parts[1]:
        other.update(model, X[parts[1]], Y[parts[1]])
        other_robust.update(model, X[parts[1]], Y[parts[1]])
    mine = metrics.Measures(**shared_with(other))
    robust = metrics.RobustAccuracy(PGD, **shared_with(other_robust))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for rows in (slice(0, 3), slice(3, parts[0].stop)):
            mine.update(model, X[rows] * 1, Y[rows])
            robust.update(model, X[rows] * 1, Y[rows])
        found = mine.compute()
        share = robust.compute()
    agree(found, exact)
    assert share["robust_accuracy"] == pytest.approx(exact_robust.mean())
    assert share["robust_accuracy/low"] < share["robust_accuracy"] < share["robust_accuracy/high"]
    assert model.training
    mine.reset()
    with pytest.raises(lc.InputError, match="at least one measured image"):
        metrics.Measures().compute()
    with pytest.raises(lc.InputError, match="at least one attacked image"):
        metrics.RobustAccuracy(PGD).compute()
    with pytest.raises(lc.InputError, match="one number an image from each measure"):
        metrics.Measures(lc.geometry.CurvatureProfile()).update(
            network()[:3], X[:1, :, :4, :4].repeat(1, 1, 2, 2), Y[:1]
        )


def test_metrics_belong_to_a_collection():
    metrics = module_of("torchmetrics")
    import torchmetrics

    both = torchmetrics.MetricCollection([metrics.Measures(statistics=["median"]), metrics.RobustAccuracy(PGD)])
    both.update(network(), X, Y)
    agree(both.compute(), {k: v for k, v in expected_statistics(network()).items() if k.endswith("median")})


# --- Lightning


def lightning_module(library, net: nn.Module):
    class Module(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            loss, logs = lc.regularized(self, *batch, curvature=CURE, weight=0.03, step=batch_idx)
            self.log_dict(logs)
            return loss

        def validation_step(self, batch, batch_idx):  # noqa: ARG002 (Lightning names them)
            self.log("val_loss", lc.regularized(self.net, *batch, curvature=CURE, weight=0.03)[0])

        test_step = validation_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module()


def trainer_of(library, path, **options):
    return library.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path,
        **options,
    )


def test_callbacks_run_in_lightning_s_own_fit_and_test(tmp_path):
    callbacks = module_of("lightning")
    import lightning.pytorch

    module = lightning_module(lightning.pytorch, network())
    loader, raw = DataLoader(TensorDataset(normalized(), Y), batch_size=4), module.net
    options = {"images": 6, "mean": MEAN, "std": STD}
    both = [callbacks.CurvatureCallback(**options), callbacks.RobustAccuracyCallback(PGD, network="net", **options)]
    trainer = trainer_of(
        lightning.pytorch,
        tmp_path,
        callbacks=both,
        max_epochs=2,
        precision="bf16-mixed",
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
    )
    before = [parameter.detach().clone() for parameter in raw.parameters()]
    trainer.fit(module, loader, loader)
    assert not any(torch.equal(one, other) for one, other in zip(before, raw.parameters(), strict=True))
    exact = expected_statistics(lc.wrap(raw, mean=MEAN, std=STD), X[:6], Y[:6])
    agree(trainer.callback_metrics, exact, "val/")
    assert {"loss", "curvature", "val_loss"} <= set(trainer.callback_metrics)
    (found,) = trainer.test(module, loader, verbose=False)  # in inference mode
    agree(found, exact, "test/")
    robust = lc.attack(lc.wrap(raw, mean=MEAN, std=STD), X[:6], Y[:6], PGD).robust_accuracy
    assert found["test/robust_accuracy"] == pytest.approx(robust.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give mean= and std="),
        ({"network": "model"}, "the name of a submodule"),
        ({"images": 0}, "at least one image"),
    ],
)
def test_lightning_s_callbacks_refuse_before_the_first_step(options, message, tmp_path):
    callbacks = module_of("lightning")
    import lightning.pytorch

    module, loader = (
        lightning_module(lightning.pytorch, network()),
        DataLoader(TensorDataset(normalized(), Y), batch_size=4),
    )
    with pytest.raises(lc.InputError, match=message):
        trainer_of(lightning.pytorch, tmp_path, max_epochs=1, callbacks=[callbacks.CurvatureCallback(**options)]).fit(
            module, loader, loader
        )
    assert module.global_step == 0


# --- transformers


def vit(**options) -> nn.Module:
    import transformers

    with temporary_seed(0, "vit"):
        return transformers.ViTForImageClassification(
            transformers.ViTConfig(
                image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=options.pop("num_labels", 3), **options
            )
        )  # fmt: skip


def rows(y=Y) -> list[dict]:
    return [{"pixel_values": x, "labels": label} for x, label in zip(normalized(), y, strict=True)]


def trained(path, kind, penalties=None, model=None, y=Y, callbacks=(), **words):
    import transformers

    parts = module_of("transformers")
    options = {"max_steps": 1, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "logging_steps": 1}
    arguments = transformers.TrainingArguments(
        output_dir=str(path), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, optim="sgd", learning_rate=0.1,
        eval_strategy="steps", eval_steps=1, max_grad_norm=0.5, **options | words
    )  # fmt: skip
    model = model or vit()
    trainer = kind(model, arguments, train_dataset=rows(y), eval_dataset=rows(y), **penalties or {})
    for callback in callbacks:
        trainer.add_callback(callback(parts, trainer))
    with temporary_seed(0, "training"):
        trainer.train()
    return trainer


def parameters(trainer) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in trainer.model.parameters()]


@pytest.fixture
def hf():
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    return module_of("transformers")


KINDS = {
    "classes": ({}, Y),
    "smoothing": ({}, Y),
    "several labels": ({"problem_type": "multi_label_classification"}, torch.eye(3)[Y]),
    "regression": ({"num_labels": 1}, Y.float()),
}


@pytest.mark.parametrize("name", KINDS)
def test_without_penalties_it_is_the_trainer_itself(name, hf, tmp_path):
    import transformers

    options, y = KINDS[name]
    words = {"label_smoothing_factor": 0.1} if name == "smoothing" else {}
    found, exact = (
        trained(tmp_path, kind, model=vit(**options), y=y, **words)
        for kind in (hf.RegularizedTrainer, transformers.Trainer)
    )
    for one, other in zip(parameters(found), parameters(exact), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_trainer_logs_its_penalties_and_its_callbacks_evaluate(hf, tmp_path):
    penalties = {"penalties": {"curvature": CURE}, "weight": 0.5, "mean": MEAN, "std": STD}
    callbacks = (
        lambda parts, trainer: parts.CurvatureCallback(trainer, images=6, mean=MEAN, std=STD),
        lambda parts, trainer: parts.RobustAccuracyCallback(trainer, PGD, images=6, mean=MEAN, std=STD),
    )
    trainer = trained(tmp_path, hf.RegularizedTrainer, penalties, callbacks=callbacks)
    first = next(log for log in trainer.state.log_history if "curvature" in log)
    assert first["loss"] == pytest.approx(first["plain_loss"] + 0.5 * first["curvature"], rel=1e-3)
    half = trained(
        tmp_path, hf.RegularizedTrainer, penalties, bf16=True, gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )  # fmt: skip
    other = next(log for log in half.state.log_history if "curvature" in log)
    assert other["curvature"] == pytest.approx(first["curvature"], rel=1e-4)  # in float32 under bf16, too
    model = lc.wrap(trainer.model, mean=MEAN, std=STD)
    metrics = trainer.evaluate()
    agree(metrics, expected_statistics(model, X[:6], Y[:6]), "eval_")
    assert metrics["eval_robust_accuracy"] == pytest.approx(lc.attack(model, X[:6], Y[:6], PGD).robust_accuracy.value)
    assert any("eval_robust_accuracy" in log for log in trainer.state.log_history)


def test_the_trainer_takes_an_objective_with_an_attack(hf, tmp_path):
    objective = lc.Objective(attack=PGD, statistics="own")
    trainer = trained(tmp_path, hf.RegularizedTrainer, {"objective": objective, "mean": MEAN, "std": STD})
    assert np.isfinite(trainer.state.log_history[0]["loss"])


def test_what_the_trainer_cannot_do_it_says(hf, tmp_path):
    with pytest.raises(lc.InputError, match=r"a loss with one number per example, got compute_loss_func. Write loss="):
        hf.RegularizedTrainer(compute_loss_func=print)
    network = hf._Network(vit(), Batches())
    with pytest.raises(lc.InputError, match="batches with pixel_values and labels, got labels"):
        network.split({"labels": Y})
    network = hf._Network(nn.Linear(1, 1), Batches())
    network.model.forward = lambda pixel_values: {"hidden": pixel_values}
    with pytest.raises(lc.InputError, match="logits in the network's output"):
        network(X)
    with pytest.raises(lc.InputError, match="at least one image"):
        hf.CurvatureCallback(None, images=0)
    with pytest.raises(lc.InputError, match="use_reentrant=False"):
        trained(
            tmp_path, hf.RegularizedTrainer, {"penalties": {"curvature": CURE}, "weight": 0.5}, gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": True},
        )  # fmt: skip
