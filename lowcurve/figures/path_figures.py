"""Paths within classification regions as pictures: their shapes in principal components, and the images along them."""

from dataclasses import replace

import torch

from lowcurve.errors import InputError
from lowcurve.figures.paths import find_families, summarize_families
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import Paths, principal_components, resample
from lowcurve.results import Curves, Gallery, Points, Result, Scatter, Table, merge
from lowcurve.results.cells import NETWORK

SHARE = 1e-3
"""The spacing over the distance of the ends."""
POINTS = 101
STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
HOW = "beyond"


def path_pictures(shared: SameImages) -> dict[str, Result]:
    """Paths of the four families between the sitting's images: their numbers, and of each family one path as it runs.

    Shown is the first pair whose path bends, in its own principal components, and of families that have none the images of
    the first.

    Errors: InputError where no two of the images have one class.

    Reference: bardusco_report, Figs. 5 to 8 and Table 2; fawzi2018topology, Algorithm 1.
    """
    pairs, seed = max(1, 2 * len(shared.numbers) // 5), shared.seed
    tables: list[Table] = []
    flat: list[Curves] = []
    shapes: dict[str, dict[str, tuple[Points, Points]]] = {}
    gallery: list[tuple[str, torch.Tensor, tuple[str, ...]]] = []
    for name, model in shared.models.items():
        found = find_families(model, shared.examples, pairs, share=SHARE, seed=seed, progress=shared.progress)
        if not found:
            raise InputError("two images of one class at least", f"{len(shared.numbers)} images", "write --examples 40")
        table, _, components = summarize_families(found, SHARE, seed).values()
        assert isinstance(table, Table)
        assert isinstance(components, Curves)
        tables.append(replace(table, columns=(NETWORK, *table.columns), rows=tuple((name, *row) for row in table.rows)))
        flat.append(replace(components, lines={f"{name}, {key}": line for key, line in components.lines.items()}))
        for (family, how), those in found.items():
            path = _one(those.paths)
            if path is not None and how == HOW:
                if int(path.counts[0]) > 2:  # of a straight one there would be rounding to see
                    shapes.setdefault(family, {})[name] = _shape(path)
                gallery.append((f"{name}, {family}", *_along(path)))
    results = {"paths": merge(tables), "components": merge(flat)}
    return {**results, **_figures(shared, shapes), **_images(shared, gallery)}


def _one(paths: Paths) -> Paths | None:
    """The first that bends, or the first of those that were found."""
    found = torch.nonzero(paths.found).flatten()
    bent = torch.nonzero(paths.found & (paths.counts > 2)).flatten()
    rows = torch.cat([bent, found])[:1]
    return paths.take(rows) if len(rows) else None


def _shape(path: Paths) -> tuple[Points, Points]:
    """Second and third principal component against the first."""
    seen = principal_components(path, points=POINTS, components=3).coordinates[0]
    padded = torch.nn.functional.pad(seen, (0, 3 - seen.shape[1]))
    first, second, third = (tuple(column.tolist()) for column in padded.unbind(1))
    return Points(first, second), Points(first, third)


def _along(path: Paths) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The images at a few stops, and how far each is from the straight line."""
    images = resample(path, POINTS)[0]
    rows = [round(stop * (POINTS - 1)) for stop in STOPS]
    line = torch.lerp(
        images[:1], images[-1:], torch.linspace(0, 1, POINTS).to(images).view(-1, *[1] * (images.ndim - 1))
    )
    away = (images - line).flatten(1).norm(dim=1)
    return images[rows].cpu(), tuple(f"{float(away[row]):.2g} off the line" for row in rows)


def _figures(shared: SameImages, shapes: dict[str, dict[str, tuple[Points, Points]]]) -> dict[str, Result]:
    conditions = {
        **shared.conditions,
        "path": f"the first pair whose path bends; projection '{HOW}', {POINTS} points of even distance",
        "spacing": f"{SHARE:g} of the distance of the ends",
    }
    return {
        f"{family}: component {number}": Scatter(
            f"A path between images, {family}: component {number} against 1",
            "principal component 1 (l_2, pixel units)",
            f"principal component {number} (l_2, pixel units)",
            {name: both[number - 2] for name, both in shown.items()},
            "A straight path has its first component alone and is left out. Each network's path has components of its own.",
            conditions,
        )
        for family, shown in shapes.items()
        for number in (2, 3)
    }


def _images(shared: SameImages, rows: list[tuple[str, torch.Tensor, tuple[str, ...]]]) -> dict[str, Result]:
    shape = shared.examples.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or not rows:
        return {}
    names, images, notes = zip(*rows, strict=True)
    columns = tuple(f"{stop:.0%} of the way" for stop in STOPS)
    pixels = torch.stack([row.double() for row in images]).numpy()
    caption = "Every image on the way is taken for the class of its ends."
    return {"images": Gallery("Images along paths", names, columns, pixels, notes, caption, shared.conditions)}
