"""How attacks are made and called: norms by name, numpy arrays, bytes, seeds; and what is refused at once."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import attacks
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks.base import Attack
from lowcurve.errors import InputError
from lowcurve.randomness import stream, temporary_seed

with temporary_seed(0, "calls"):
    MODEL = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).eval()
    X = torch.randint(0, 256, (6, 3, 2, 2)).to(torch.uint8)
Y = MODEL(X / 255).argmax(1)
BALL = Ball(LINF, 0.1)

ON_A_BALL = {
    "PGD": attacks.PGD, "FGSM": attacks.FGSM, "BIM": attacks.BIM, "APGD": attacks.APGD, "Square": attacks.Square,
    "SPSA": attacks.SPSA, "Noise": attacks.Noise, "OneStep": attacks.OneStep, "RSFGSM": attacks.RSFGSM,
    "NFGSM": attacks.NFGSM, "SORA": attacks.SORA, "AutoAttack": attacks.AutoAttack, "strong": attacks.strong,
    "moosavi2019cure": attacks.moosavi2019cure, "srinivas2022lcnn": attacks.srinivas2022lcnn,
    "yu2018": lambda *given, **named: attacks.yu2018(*given, step_size=0.1, **named),
}  # fmt: skip
NO_RADIUS = {"DeepFool": attacks.DeepFool, "MinimalNorm": attacks.MinimalNorm, "RunnerUp": attacks.RunnerUp}
COLORS = (attacks.HueShift(), attacks.ColorBox(), attacks.Recoloring())
on_a_ball = pytest.mark.parametrize("make", ON_A_BALL.values(), ids=ON_A_BALL)


@on_a_ball
def test_a_ball_is_a_norm_and_a_radius_by_name(make):
    attack = make(BALL)
    assert isinstance(attack, Attack)
    assert attack == make("linf", 0.1) == make("Linf", radius=0.1) == make(norm=LINF, radius=0.1, box=(0.0, 1.0))
    assert attack.norm == LINF
    assert make("l2", 0.5).norm == L2
    assert make("linf", 0.1, box=(-1.0, 1.0)) == make(Ball(LINF, 0.1, (-1.0, 1.0)))
    assert hash(attack) == hash(make("linf", 0.1))
    assert pickle.loads(pickle.dumps(make("linf", 0.1))) == attack


@on_a_ball
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("linfinite", 0.1), "one of the norms l_1, l_2, l_inf, got 'linfinite'"),
        ((None, 0.1), "one of the norms l_1, l_2, l_inf, got None"),
        (("linf",), "a radius, got none"),
        (("linf", "8/255"), "a finite radius of at least 0, got '8/255'"),
        (("linf", math.nan), "a finite radius of at least 0, got nan"),
        (("linf", 8), "a radius within the pixel range, at most 1, got 8"),
        ((BALL, 0.1), "a ball without a radius beside it"),
        ((BALL, 20), "a ball without a radius beside it"),
    ],
)
def test_what_is_no_ball_is_refused_at_construction(make, given, message):
    with pytest.raises(InputError, match=message):
        make(*given)


@pytest.mark.parametrize("make", NO_RADIUS.values(), ids=NO_RADIUS)
def test_attacks_without_a_radius_take_the_norm_by_name(make):
    assert make("linf") == make(LINF)
    assert make("l2").norm == make().norm == L2
    with pytest.raises(InputError, match="one of the norms"):
        make("linfinite")


def test_an_attack_within_a_radius_has_its_norm():
    attack = attacks.Within(attacks.DeepFool("linf"), 4 / 255)
    assert attack.norm == LINF
    with pytest.raises(InputError, match="an attack with a norm, got HueShift"):
        attacks.Within(COLORS[0], 0.1)
    with pytest.raises(InputError, match="a finite radius of at least 0"):
        attacks.Within(attacks.DeepFool(), "4/255")


@pytest.mark.parametrize(
    "make",
    [lambda n: attacks.PGD("linf", 0.1, steps=n), lambda n: attacks.MinimalNorm(steps=n), lambda n: attacks.DeepFool(steps=n)],
)  # fmt: skip
def test_a_fraction_of_a_step_is_refused(make):
    assert make(np.int64(3)).steps == 3
    with pytest.raises(InputError, match=r"a whole number of steps, got 2.5"):
        make(2.5)


def test_fields_can_be_replaced():
    attack = attacks.PGD("linf", 0.1, steps=7)
    assert replace(attack, norm=Ball(L2, 0.5, (-1.0, 1.0))) == attacks.PGD("l2", 0.5, steps=7, box=(-1.0, 1.0))
    assert replace(attack, radius=0.2).ball == Ball(LINF, 0.2)
    assert replace(attack, norm="l2").ball == Ball(L2, 0.1)
    assert replace(attack, steps=3) == attacks.PGD("linf", 0.1, steps=3)


def test_color_attacks_have_no_norm_and_suites_that_of_their_members():
    assert [attack.norm for attack in COLORS] == [None, None, None]
    flat, round_ = attacks.PGD("linf", 0.1), attacks.PGD("l2", 0.1)
    assert attacks.Suite((("a", flat), ("b", attacks.FGSM("linf", 0.2)))).norm == LINF
    assert attacks.Suite((("a", flat), ("b", round_))).norm is None
    assert attacks.Relay((flat,)).norm == LINF


def test_arrays_bytes_and_lists_are_images_and_labels():
    attack = attacks.PGD("linf", 0.1, steps=3)
    expected = attack(MODEL, X / 255, Y)
    assert float((expected - X / 255).abs().max()) > 0.05
    for x in (X, X.numpy(), X.numpy() / 255, X.numpy().astype(np.float32) / np.float32(255)):
        for y in (Y, Y.to(torch.uint8), Y.int().numpy(), Y.tolist()):
            assert_close(attack(MODEL, x, y), expected)


def test_a_seed_takes_the_place_of_a_generator():
    attack = attacks.Noise("linf", 0.1, draws=1)
    first, again, other = attack(MODEL, X, Y), attack(MODEL, X, Y, seed=0), attack(MODEL, X, Y, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, attack(MODEL, X, Y, generator=stream(0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: attacks.PGD("linf", 0.1)(MODEL, X.long(), Y),
            "images of floats in .0, 1. or of uint8, got torch.int64",
        ),
        (lambda: attacks.PGD("linf", 0.1)(MODEL, X, Y + 0.5), "whole numbers as labels, got torch.float32 with"),
        (lambda: attacks.PGD("linf", 0.1)(MODEL, X, Y[:2]), r"labels of shape \(6,\), got \(2,\)"),
        (lambda: attacks.PGD("linf", 0.1)(MODEL, X, Y[:, None, None].expand(6, 2, 2)), "one label for each image"),
        (lambda: attacks.DeepFool()(MODEL, X, Y, radius=torch.ones(6)), "no radius in a call of DeepFool"),
        (lambda: attacks.RSFGSM("linf", 0.1)(MODEL, X, Y, start=X / 255), "no start in a call of OneStep"),
    ],
)
def test_calls_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
