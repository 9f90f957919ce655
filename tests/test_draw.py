"""lowcurve draw: closed forms on a linear network, what a run's pictures hold, and what cannot be drawn."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from command import done, files, refused
from torch import nn
from torch.testing import assert_close

from lowcurve.analysis.norms import LINF, Ball
from lowcurve.data import DataSet, Examples
from lowcurve.errors import InputError
from lowcurve.figures.colors import colors
from lowcurve.figures.cross_sections import cross_sections
from lowcurve.figures.jacobians import jacobians
from lowcurve.figures.landscapes import surfaces
from lowcurve.figures.path_figures import path_pictures
from lowcurve.figures.same_images import SameImages
from lowcurve.losses import cross_entropy
from lowcurve.results import Surface, Table, load
from lowcurve.store import Run
from lowcurve.study.report_figures import report_figures, same_images
from lowcurve.study.settings import Study
from lowcurve.types import silent

SHAPE = (1, 2, 3)
STUDY = Study(norm="l_2", radius="0.5")


def linear(seed: int) -> nn.Module:
    """z_0 = <w, x> = -z_1, so that the margin of class 0 is 2 <w, x>; no way to the boundary leaves the pixel box."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    weight = torch.tensor([1.0, -2.0, 0.5, 1.5, -0.5, 2.0]).roll(seed)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([weight, -weight]))
        model[1].bias.zero_()
    return model.eval()


def examples() -> Examples:
    x = torch.linspace(0.3, 0.7, 24).view(4, *SHAPE)
    return Examples(x, torch.tensor([0, 1, 0, 0]), ("cat", "dog"))


def data() -> DataSet:
    return DataSet("four", examples(), examples(), examples(), "Four images.")


MODELS = {"a": linear(0), "b": linear(2)}


def shared(points: int = 9) -> SameImages:
    return same_images(STUDY, data(), MODELS, 2, points)


def rows(table: object) -> list[dict]:
    assert isinstance(table, Table)
    return [dict(zip((c.heading for c in table.columns), row, strict=True)) for row in table.rows]


def middle(surface: object, name: str) -> float:
    assert isinstance(surface, Surface)
    values = surface.panels[name].values
    return float(values[len(surface.y) // 2, len(surface.x) // 2])


def margins(name: str) -> torch.Tensor:
    x = shared().inputs(MODELS[name])
    logits = MODELS[name](x).detach()
    return logits[:, 0] - logits[:, 1]


def test_those_sit_whom_every_network_classifies_rightly():
    assert shared().numbers == (0, 2)
    assert same_images(STUDY, data(), MODELS, 9).numbers == (0, 2, 3)
    assert shared().image_name(1) == "test image 2, class cat"


def test_a_linear_boundary_is_straight_and_as_far_as_its_formula_says():
    results = cross_sections(shared())
    length = float(MODELS["a"][1].weight[0].detach().norm()) * 2
    for name in MODELS:
        found = [row for row in rows(results["cross-sections"]) if row["network"] == name]
        assert [row["image"] for row in found] == ["cat, no. 0", "cat, no. 2"]
        assert_close(torch.tensor([row["distance"] for row in found]), margins(name) / length, rtol=1e-4, atol=0)
        for i, row in enumerate(found):
            assert (row["towards"], abs(row["κ"]) < 1e-4, abs(row["slope"]) < 1e-4) == ("dog", True, True)
            surface = results[f"section {i + 1}"]
            assert isinstance(surface, Surface)
            x, y = surface.panels[name].marks["image"]
            assert (x, -y) == (0.0, pytest.approx(row["distance"]))
            # F falls along r at ||2w|| a length, and does not change along v.
            expected = -length * torch.tensor(surface.y)[:, None].expand(-1, 9)
            assert_close(torch.tensor(surface.panels[name].values), expected, rtol=0, atol=1e-4)
            heights = results[f"heights {i + 1}"].lines
            for line in (heights[name], heights[f"{name}, parabola"]):
                assert max(abs(v) for v in line.y if v is not None) < 1e-3


def test_distances_along_the_attacks_directions_are_those_of_a_linear_margin():
    """Along -sign(w) the margin falls by 2 ||w||_1 a pixel; all three objectives of two classes have this direction."""
    for name, model in MODELS.items():
        found = [row for row in rows(surfaces(shared())["distances"]) if row["network"] == name]
        levels = margins(name) / (2 * model[1].weight[0].abs().sum()) * 255
        for key in ("cross-entropy", "least likely", "margin"):
            assert_close(torch.tensor([row[f"along {key}"] for row in found]), levels.detach(), rtol=1e-3, atol=0)


def test_every_surface_has_the_image_in_its_middle():
    results = surfaces(shared())
    for name, model in MODELS.items():
        x = shared().inputs(model)
        loss = cross_entropy(model(x), shared().y).detach()
        for i in range(2):
            for kind in ("margin", "along cross-entropy", "along least likely", "along margin"):
                assert middle(results[f"{kind} {i + 1}"], name) == pytest.approx(float(margins(name)[i]), rel=1e-5)
            assert middle(results[f"loss {i + 1}"], name) == pytest.approx(float(loss[i]), rel=1e-4)
            assert middle(results[f"classes {i + 1}"], name) == 0
    wide = rows(results["wide"])
    shares = torch.tensor([(results[f"classes {i}"].panels["a"].values == 0).mean() for i in (1, 2)])
    assert_close(torch.tensor([row["own class"] for row in wide if row["network"] == "a"]), shares.float())
    assert all(row["pieces"] == row["classes"] for row in wide)  # half-planes
    assert all(row["separation"] == row["weight of lesser pieces"] == 0 for row in wide)


def test_without_gudhi_a_wide_plane_has_no_graded_numbers(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # noqa: ARG005
    wide = rows(surfaces(shared())["wide"])
    assert all(row["separation"] is row["weight of lesser pieces"] is None for row in wide)
    assert all(row["pieces"] > 0 for row in wide)


def test_an_attack_s_first_step_lies_in_the_plane_of_its_direction():
    panel = surfaces(replace(shared(), ball=Ball(LINF, 0.1)))["along cross-entropy 1"].panels["a"]
    path = panel.lines["PGD, projected"]
    assert (path.x[0], path.y[0]) == (0.0, 0.0)
    assert (path.x[1], path.y[1]) == (pytest.approx(0, abs=1e-6), pytest.approx(0.1 / 4 * 255, rel=1e-4))
    assert re.fullmatch(r"[\d.]+% in the pixel box; PGD ends [\d.e-]+ from the plane \(l_2\)", panel.note)


def test_a_network_s_surfaces_do_not_depend_on_its_company():
    alone, beside = surfaces(replace(shared(), models={"a": MODELS["a"]})), surfaces(shared())
    for key in ("along margin 2", "classes 1"):
        assert alone[key].panels["a"] == beside[key].panels["a"]


def test_gradients_are_drawn_around_gray_at_their_own_scale():
    found = jacobians(shared())
    for key, sign in (("margin", 2.0), ("loss", -1.0)):
        gallery = found[key]
        assert gallery.row_labels == ("image", "a", "b")
        assert_close(torch.tensor(gallery.pixels[0]).float(), shared().inputs(MODELS["a"]))
        for number, name in enumerate(MODELS, 1):
            weight = MODELS[name][1].weight[0].detach().double()
            drawn = 0.5 + sign / abs(sign) * weight / (2 * weight.abs().max())
            assert_close(
                torch.tensor(gallery.pixels[number]), drawn.view(1, *SHAPE).expand(2, -1, -1, -1), atol=1e-6, rtol=0
            )
    assert found["margin"].notes[1] == ("±4", "±4")
    added = found["adversarial"]
    assert added.row_labels == ("image", "a", "a, what was added", "b", "b, what was added")
    still = {"zero": nn.Sequential(nn.Flatten(), nn.Linear(6, 2))}
    with torch.no_grad():
        still["zero"][1].weight.zero_()
        still["zero"][1].bias.copy_(torch.tensor([1.0, 0.0]))
    gray = jacobians(replace(shared(), models={"zero": still["zero"].eval()}))["margin"]
    assert (gray.pixels[1] == 0.5).all()


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        ("cross-section", {"cross-sections": "table", "section 1": "surface", "heights 1": "curves"}),
        ("surface", {"distances": "table", "margin 1": "surface", "loss 1": "surface", "classes 1": "surface"}),
        ("jacobian", {"margin": "gallery", "loss": "gallery", "adversarial": "gallery"}),
        ("path", {"paths": "table", "components": "curves", "images": "gallery"}),
    ],
)
def test_a_run_is_drawn(kind, held, smoke, tmp_path):
    pytest.importorskip("matplotlib")
    before = files(smoke)
    count = 20 if kind == "path" else 1
    words = ("--networks", "CURE,standard", "--examples", count, "--points", 9, "--out", tmp_path, "--static", "svg")
    assert done("draw", kind, smoke, *words) == 0
    assert files(smoke) == before
    content = json.loads((tmp_path / f"{kind}.json").read_text())
    assert content["facts"]["networks"] == "CURE, standard"
    for key, name in held.items():
        assert content["results"][key]["kind"] == name
        if name == "surface":
            assert list(load(content["results"][key]).panels) == ["CURE", "standard"]
        if name != "table":
            assert (tmp_path / f"{kind}-{key.replace(' ', '-')}.svg").read_text().startswith("<?xml")
    assert (tmp_path / f"{kind}.html").read_text().startswith("<!doctype html>")


def test_pictures_stand_in_the_run_unless_they_are_wanted_elsewhere(smoke, tmp_path):
    run = shutil.copytree(smoke, tmp_path / "run")
    assert done("draw", "jacobian", run, "--examples", "1") == 0
    assert files(run) - files(smoke) == {"drawn/jacobian.html", "drawn/jacobian.json"}
    content = json.loads((run / "drawn" / "jacobian.json").read_text())
    assert content["facts"]["networks"] == "standard, CURE, gradient-norm, PGD"


def two_half_spaces() -> SameImages:
    """Gray of 0.3 to 0.7, a cat where the sum is above 0.5: regions are convex and every path is straight."""
    x = torch.linspace(0.2, 0.8, 12).view(12, 1, 1, 1).expand(-1, *SHAPE)
    y = (x.flatten(1).sum(1) <= 3).long()
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.ones(6), -torch.ones(6)]))
        model[1].bias.copy_(torch.tensor([-3.0, 3.0]))
    sets = Examples(x, y, ("cat", "dog"))
    return same_images(STUDY, DataSet("gray", sets, sets, sets, ""), {"sum": model.eval()}, 12)


def test_paths_in_a_half_space_are_straight_and_nothing_bends():
    results = path_pictures(two_half_spaces())
    for row in rows(results["paths"]):
        assert (row["network"], row["found"], row["straight"]) == ("sum", 1.0, 1.0)
        assert row["anchors"][0] == 2
    assert not [key for key in results if "component " in key]
    gallery = results["images"]
    assert gallery.column_labels[0] == "0% of the way"
    ends = torch.tensor(gallery.pixels[0])
    assert_close(ends[2], (ends[0] + ends[4]) / 2, rtol=0, atol=1e-6)


def test_no_path_without_two_images_of_a_class():
    first = same_images(STUDY, data(), MODELS, 1)
    with pytest.raises(InputError, match=r"two images of one class at least, got 1 images\. Write --examples 40"):
        path_pictures(first)


def brightest_channel() -> SameImages:
    """One red image and a network that sees which channel is brightest on the average."""
    x = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()

    class Means(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * x.mean((2, 3))

    sets = Examples(x, torch.tensor([0]), ("red", "green", "blue"))
    return same_images(STUDY, DataSet("red", sets, sets, sets, ""), {"means": Means().eval()}, 1)


def test_colors_of_a_network_that_sees_the_mean_color():
    """Red turns yellow at 60 degrees and magenta at -60; at its worst it is green or blue and the margin -0.8."""
    results = colors(brightest_channel())
    (row,) = rows(results["colors"])
    assert (row["clean"][0], row["hue"][0], row["pepper test"][0], row["no hue between"][0]) == (1.0, 0.0, 1.0, 0.0)
    assert row["hue range"][0] == pytest.approx(120, abs=0.2)
    assert row["|m″| along hue"][0] == 0
    curves = results["hues 1"]
    margins = dict(zip(curves.x, curves.lines["means"].y, strict=True))
    assert margins[0.0] == pytest.approx(0.8)
    assert margins[60.0] == margins[-60.0] == pytest.approx(0, abs=1e-6)
    assert margins[120.0] == pytest.approx(-0.8)
    seen = dict(zip(results["recolored"].row_labels, results["recolored"].notes, strict=True))
    assert seen["means, hue"][0] in ("seen as green", "seen as blue")


def test_a_report_draws_what_there_is_to_draw():
    """Of one red image neither paths nor anything else than itself; of images that nobody knows, nothing."""
    seen = brightest_channel()
    found = report_figures(STUDY, DataSet("red", *[seen.examples] * 3, ""), seen.models, silent)
    assert {"cross-sections", "margin 1", "classes 1", "margin gradients", "colors", "hues 1"} <= found.keys()
    assert "paths" not in found
    gray = two_half_spaces()
    with_paths = replace(STUDY, evaluation=replace(STUDY.evaluation, drawn_paths=2))
    found = report_figures(with_paths, DataSet("gray", *[gray.examples] * 3, ""), gray.models, silent)
    assert {"margin 1", "paths", "images"} <= found.keys()
    assert "colors" not in found
    wrong = Examples(gray.examples.x, 1 - gray.examples.y, gray.examples.classes)
    (missing,) = report_figures(STUDY, DataSet("wrong", wrong, wrong, wrong, ""), gray.models, silent).values()
    assert missing.rows[0][:2] == ("all", "figures")


def test_gray_images_have_no_color_to_change():
    with pytest.raises(
        InputError, match=r"Expected color images of shape .* got .*\. Attack greyscale images with PGD"
    ):
        colors(shared())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("spiral", "RUN"), "a kind among cross-section, surface, jacobian.*, got 'spiral'. Write lowcurve draw"),
        (("surface",), "the run to draw, got none. Write lowcurve draw surface RUN"),
        ((), "a kind among .*, got none. Write lowcurve draw surface RUN"),
        (("surface", "RUN", "--what"), "Unknown option --what. Write lowcurve draw --help"),
        (("color", "RUN"), "images of 3 channels for color, got inputs of shape .* in digits. Draw another kind"),
        (("surface", "nowhere"), "a run directory"),
        (
            ("surface", "RUN", "--networks", "LCMM"),
            "networks among standard, CURE, .*, got 'LCMM'. Leave out --networks",
        ),
        (("surface", "RUN", "--examples", "0"), "at least one example, got 0. Write --examples 1"),
        (("surface", "RUN", "--points", "2"), "at least three points along a side, got 2. Write --points 101"),
        (("surface", "RUN", "--static", "gif"), "a form among pdf, png, svg, got 'gif'. Write --static pdf"),
        (("surface", "EMPTY"), "a run with at least one network, got none in .*. Run lowcurve train first"),
    ],
)
def test_what_cannot_be_drawn(words, sentence, capsys, smoke, tmp_path):
    empty = Run(tmp_path / "empty")
    empty.write("settings.yaml", (smoke / "settings.yaml").read_text())
    places = {"RUN": smoke, "EMPTY": empty.folder}
    assert re.search(sentence, refused(capsys, "draw", *(places.get(word, word) for word in words)))


def test_nobody_sits_where_no_image_is_right():
    wrong = {"wrong": linear(0)}
    with torch.no_grad():
        wrong["wrong"][1].bias.copy_(torch.tensor([-90.0, 90.0]))
    cats = examples().take([0, 2])
    with pytest.raises(
        InputError, match=r"a test image that every network classifies correctly, got none\. Leave a network"
    ):
        same_images(STUDY, DataSet("cats", cats, cats, cats, ""), wrong, 1)


def test_gradients_of_points_are_no_pictures():
    points = Examples(torch.zeros(2, 6), torch.tensor([0, 0]), ("cat", "dog"))
    with pytest.raises(
        InputError, match=r"images of one or three channels, got inputs of shape .*\. Draw a cross-section"
    ):
        jacobians(replace(shared(), examples=points))
