"""Other people's networks: normalization, outputs that are objects, state dicts, and the libraries' own preprocessing."""

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lowcurve as lc

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def network(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes)
    ).eval()


class Answering(nn.Module):
    """A network whose output is made by a function of its logits."""

    def __init__(self, answer):
        super().__init__()
        self.body, self.answer = network(), answer

    def forward(self, x):
        return self.answer(self.body(x))


@pytest.fixture
def images():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_input_is_normalized_once(images):
    net = network()
    assert torch.equal(lc.wrap(net, mean=MEAN, std=STD)(images), net(lc.Normalize(MEAN, STD)(images)))
    assert torch.equal(lc.wrap(net)(images), net(images))


def test_the_state_dict_has_the_networks_own_names(images):
    net, other = network(), network()
    nn.init.normal_(other[4].weight)
    wrapped = lc.wrap(net, mean=MEAN, std=STD)
    assert wrapped.state_dict().keys() == net.state_dict().keys()
    wrapped.load_state_dict(other.state_dict())
    assert torch.equal(net(images), other(images))
    nested = nn.Sequential(wrapped)
    assert set(nested.state_dict()) == {f"0.{name}" for name in net.state_dict()}
    nested.load_state_dict({f"0.{name}": value for name, value in network().state_dict().items()})
    assert torch.equal(net(images), network()(images))


def test_a_checkpoint_of_another_network_is_refused():
    wrapped, state = lc.wrap(network()), network().state_dict()
    state.pop("4.bias")
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*4\.bias"):
        wrapped.load_state_dict(state)


Outputs = namedtuple("Outputs", "logits aux")


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (lambda z: SimpleNamespace(logits=z), None),
        (lambda z: {"logits": z, "loss": None}, None),
        (lambda z: Outputs(z, -z), None),
        (lambda z: (z,), None),
        (lambda z: (-z, z), 1),
        (lambda z: {"scores": z}, "scores"),
        (lambda z: SimpleNamespace(scores=z), "scores"),
    ],
)
def test_the_logits_are_found_in_the_output(images, answer, output):
    assert torch.equal(lc.wrap(Answering(answer), output=output).eval()(images), network()(images))


@pytest.mark.parametrize(
    ("answer", "output", "received"),
    [
        (lambda z: (z, z), None, "got tuple of 2"),
        (lambda z: {"scores": z}, None, "got dict with scores"),
        (lambda _: None, None, "got NoneType"),
        (lambda z: (z, z), 2, "got tuple of 2"),
    ],
)
def test_an_output_in_which_nothing_is_called_logits_is_not_guessed(images, answer, output, received):
    with pytest.raises(lc.InputError, match=f"{received}. Name the logits by lc.wrap"):
        lc.wrap(Answering(answer), output=output)(images)


def test_outputs_that_wrap_can_read_are_named_where_it_is_missing(images):
    for answer in (lambda z: {"logits": z}, lambda z: (z, z), lambda z: z[:, :1]):
        with pytest.raises(
            lc.InputError, match=r"lc.wrap\(model\), which reads the logits from an output and makes two"
        ):
            lc.measure(Answering(answer).eval(), images, torch.zeros(4).long(), lc.Curvature())


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
def test_one_logit_becomes_two_classes(images, shape):
    net = network(1)
    logits = lc.wrap(lambda x: net(x).reshape(shape))(images)
    torch.testing.assert_close(logits.softmax(1)[:, 1], net(images)[:, 0].sigmoid())
    assert torch.equal(logits.argmax(1), (net(images)[:, 0] > 0).long())


def test_a_compiled_network_is_differentiated_twice_and_bounded_without_compiling(images, recwarn):
    net = network()
    wrapped = lc.wrap(torch.compile(net, backend="eager"))
    y, v = torch.zeros(4).long(), torch.ones_like(images)
    operator = lc.hessian(lc.loss_field(wrapped, y), images)
    assert torch.equal(operator(v), lc.hessian(lc.loss_field(net, y), images)(v))
    assert operator.backend == lc.hessian(lc.loss_field(net, y), images).backend
    assert (lc.certify(wrapped, images, y, "linf").radius == lc.certify(net, images, y, "linf").radius).all()
    assert not [str(w.message) for w in recwarn if "Dynamo" in str(w.message)]


MODES = ["measure", "attack", "hessian", "penalty", "convert", "fold", "inspect"]


def use(model, images, what: str):
    """Give a network to one of the functions that take networks."""
    y = torch.tensor([0, 1, 0, 1])
    uses = {
        "measure": lambda: lc.measure(model, images, y, lc.Curvature()),
        "attack": lambda: lc.attack(model, images, y, lc.PGD("linf", 8 / 255, steps=1)),
        "hessian": lambda: lc.hessian(lc.loss_field(model, y), images)(images),
        "penalty": lambda: (
            lc.Objective(penalties={"c": lc.Term(lc.CURE(h=0.1), 1.0)}, statistics="frozen")
            .terms(model, images, y)["c"]
            .backward()
        ),
        "convert": lambda: lc.convert(model, example=images),
        "fold": lambda: lc.fold(model, example=images),
        "inspect": lambda: lc.inspect_layers(model, images),
    }
    return uses[what]()


def function(net: nn.Module):
    return lambda x: net(x)


SEEN = dict.fromkeys(
    ("convert", "fold", "inspect"), r"whose layers can be seen, got a scripted .*\. Give the network as it was"
)
KINDS = {  # a network, and the sentence of each use that does not work
    "a function": (
        lambda: function(network()),
        {what: r"got the function <lambda>\. Write lc.wrap\(function\)" for what in MODES if what != "hessian"},
    ),
    "a wrapped function": (
        lambda: lc.wrap(function(network())),
        {"convert": "a forward method around F.relu that torch.fx can follow"},
    ),
    "DataParallel": (lambda: nn.DataParallel(network()).eval(), {}),
    "compiled": (lambda: torch.compile(network(), backend="eager"), {}),
    "scripted": (lambda: torch.jit.script(network()), SEEN),
    "a frozen script": (lambda: torch.jit.freeze(torch.jit.script(network())), SEEN),
    "exported": (
        lambda: torch.export.export(network(), (torch.rand(4, 3, 8, 8),)).module(),
        {"fold": "a network in eval mode", "measure": "image alone", "attack": "Guard failed"},
    ),
}


@pytest.mark.filterwarnings("ignore")  # of torch.jit, torch.export and the compiler
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_works_or_is_refused_by_a_sentence(images, kind):
    make, refused = KINDS[kind]
    for what in MODES if kind != "compiled" else ("penalty", "convert", "fold", "inspect"):  # compilation takes long
        if what in refused:
            with pytest.raises(lc.InputError, match=refused[what]):
                use(make(), images, what)
        else:
            use(make(), images, what)


def test_the_modes_of_layers_stay_as_they_are():
    net = network().train()
    net[1].eval()  # BatchNorm that is not trained
    wrapped = lc.wrap(net, mean=MEAN, std=STD)
    assert (wrapped.training, net.training, net[0].training, net[1].training) == (True, True, True, False)
    assert not lc.wrap(lambda x: x).training


def test_the_normalization_is_read_from_the_settings_of_timm(images):
    net = network()
    net.pretrained_cfg = {"mean": MEAN, "std": STD}
    assert torch.equal(lc.wrap(net)(images), net(lc.Normalize(MEAN, STD)(images)))


@pytest.mark.parametrize("options", [{"mean": MEAN}, {"std": STD}])
def test_half_of_a_normalization_is_refused(options):
    with pytest.raises(lc.InputError, match=r"Expected mean and std together, got only one of them. Give both"):
        lc.wrap(network(), **options)


def test_a_transform_needs_its_library():
    with pytest.raises(lc.InputError, match="Give the image processor"):
        lc.transform_of(network())


def test_without_timm_a_sentence_says_so(monkeypatch):
    net = network()
    net.pretrained_cfg = {}
    monkeypatch.setitem(__import__("sys").modules, "timm.data", None)
    with pytest.raises(lc.InputError, match=r"Expected timm.*Install timm and torchvision"):
        lc.transform_of(net)


@pytest.fixture
def photograph():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViTImageProcessorPil", {"size": {"height": 8, "width": 8}}),
        (
            "ViTImageProcessorPil",
            {"size": {"height": 8, "width": 8}, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3},
        ),
        ("ViTImageProcessorPil", {"size": {"height": 8, "width": 8}, "do_rescale": False, "image_mean": [120.0] * 3}),
        ("ViTImageProcessorPil", {"size": {"height": 8, "width": 8}, "do_normalize": False}),
        ("ViTImageProcessorPil", {"size": {"height": 8, "width": 8}, "do_normalize": False, "do_rescale": False}),
        ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 8}}),
        ("MobileViTImageProcessorPil", {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}),
        ("EfficientNetImageProcessorPil", {"size": {"height": 8, "width": 8}, "rescale_offset": True}),
    ],
)
def test_transform_and_wrapped_network_equal_processor_and_network(transformers, photograph, name, options):
    processor, net = getattr(transformers, name)(**options), network()
    pixels = lc.transform_of(net, processor)(photograph)[None]
    assert 0 <= pixels.min() < pixels.max() <= 1
    expected = net(processor(photograph, return_tensors="pt")["pixel_values"].float())
    torch.testing.assert_close(lc.wrap(net, processor=processor)(pixels), expected, rtol=1e-4, atol=1e-4)


class Squares:
    """A processor that does more than to normalize."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, image, **options):
        pixels = torch.tensor(np.array(image)).permute(2, 0, 1)[None] / 255
        return {"pixel_values": self.factor * pixels if "do_rescale" in options else pixels**2}


def test_a_processor_that_does_more_than_to_normalize_is_refused():
    with pytest.raises(
        lc.InputError, match=r"a processor that normalizes channel by channel, got Squares. Give mean and"
    ):
        lc.wrap(network(), processor=Squares())
    with pytest.raises(
        lc.InputError, match=r"a processor that takes a Pillow image, got TypeError: .*Give mean and std"
    ):
        lc.wrap(network(), processor=lambda image: image)
    with pytest.raises(
        lc.InputError, match=r"a processor without further scaling of pixels, got Squares\. Give mean and std"
    ):
        lc.wrap(network(), processor=Squares(2.0))


def test_the_settings_of_a_processor_are_enough(images):
    settings = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    expected = network()(lc.Normalize(MEAN, STD)(images))
    torch.testing.assert_close(lc.wrap(network(), processor=settings)(images), expected)
    with pytest.raises(
        lc.InputError, match=r"settings of rescaling and normalization alone, got do_flip_channel_order. Give the proc"
    ):
        lc.wrap(network(), processor=settings | {"do_flip_channel_order": True})
    for lacking in ({"do_normalize": True, "image_mean": MEAN}, {"size": 8}):
        with pytest.raises(
            lc.InputError, match=rf"image_mean and image_std in the .*, got {', '.join(lacking)}\. Give the processor"
        ):
            lc.wrap(network(), processor=lacking)
    assert torch.equal(lc.wrap(network(), processor={"do_normalize": False})(images), network()(images))
    with pytest.raises(lc.InputError, match=r"an image processor, got its settings. Give AutoImageProcessor"):
        lc.transform_of(network(), settings)


def test_a_network_of_transformers_needs_its_normalization(transformers, images):
    settings = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=3,
    )
    net = transformers.ViTForImageClassification(settings).eval()
    with pytest.raises(
        lc.InputError, match="Expected the normalization of a network of transformers, got ViTForImageClassification"
    ):
        lc.wrap(net)
    assert torch.equal(lc.wrap(net, mean=MEAN, std=STD)(images), net(lc.Normalize(MEAN, STD)(images)).logits)


def test_a_wrapped_network_is_converted_folded_and_measured(images):
    wrapped = lc.wrap(network(), mean=MEAN, std=STD).eval()
    smooth = lc.convert(wrapped, lc.models.SmoothConversion(beta=1000.0), example=images)
    torch.testing.assert_close(smooth(images), wrapped(images), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(lc.fold(wrapped, example=images)(images), wrapped(images))
    y, plain = torch.zeros(4).long(), nn.Sequential(lc.Normalize(MEAN, STD), network()).eval()
    result, expected = (lc.measure(net, images, y, lc.Curvature()) for net in (wrapped, plain))
    assert expected.keys() == result.keys()
    assert all((result[name] == expected[name]).all() for name in expected)
