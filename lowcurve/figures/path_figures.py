"""Show paths within the region of a class: their principal components and the images along them."""

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
"""Points of a path at equal steps of arc length."""
POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The images shown, as shares of the path's length."""
PROJECTION = "beyond"
"""The projection whose paths are shown; see `figures.paths.PROJECTIONS`."""


def path_pictures(shared: SameImages) -> dict[str, Result]:
    """Compute paths of the four families between the shared images, and show one path of each family.

    The path shown is the first that bends, in its own principal components. Families without one show the images of
    their first path.

    Args:
        shared: Networks and images.

    Returns:
        "paths", a table; "components", curves; and scatter plots and images of single paths.

    Raises:
        InputError: If no two of the images have one class.

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
        for (family, projection), those in found.items():
            path = _first_path(those.paths)
            if path is not None and projection == PROJECTION:
                if int(path.counts[0]) > 2:  # The components of a straight path are rounding.
                    shapes.setdefault(family, {})[name] = _component_curves(path)
                gallery.append((f"{name}, {family}", *_images_along(path)))
    results = {"paths": merge(tables), "components": merge(flat)}
    return {**results, **_component_figures(shared, shapes), **_image_gallery(shared, gallery)}


def _first_path(paths: Paths) -> Paths | None:
    """Return the first path that bends, or the first that was found."""
    found = torch.nonzero(paths.found).flatten()
    bent = torch.nonzero(paths.found & (paths.counts > 2)).flatten()
    rows = torch.cat([bent, found])[:1]
    return paths.take(rows) if len(rows) else None


def _component_curves(path: Paths) -> tuple[Points, Points]:
    """Return the second and third principal component against the first."""
    seen = principal_components(path, points=POINTS, components=3).coordinates[0]
    padded = torch.nn.functional.pad(seen, (0, 3 - seen.shape[1]))
    first, second, third = (tuple(column.tolist()) for column in padded.unbind(1))
    return Points(first, second), Points(first, third)


def _images_along(path: Paths) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return the images at a few positions, and how far each is from the straight line."""
    images = resample(path, POINTS)[0]
    rows = [round(position * (POINTS - 1)) for position in POSITIONS]
    line = torch.lerp(
        images[:1], images[-1:], torch.linspace(0, 1, POINTS).to(images).view(-1, *[1] * (images.ndim - 1))
    )
    deviation = (images - line).flatten(1).norm(dim=1)
    return images[rows].cpu(), tuple(f"{float(deviation[row]):.2g} off the line" for row in rows)


def _component_figures(shared: SameImages, shapes: dict[str, dict[str, tuple[Points, Points]]]) -> dict[str, Result]:
    conditions = {
        **shared.conditions,
        "path": f"the first pair whose path bends; projection '{PROJECTION}', {POINTS} points of even distance",
        "spacing": f"{SHARE:g} of the distance of the ends",
    }
    return {
        f"{family}: component {number}": Scatter(
            f"A path between images, {family}: component {number} against 1",
            "principal component 1 (l_2, pixel units)",
            f"principal component {number} (l_2, pixel units)",
            {name: both[number - 2] for name, both in shown.items()},
            "Straight paths have one component and are left out. Each network's path has its own components.",
            conditions,
        )
        for family, shown in shapes.items()
        for number in (2, 3)
    }


def _image_gallery(shared: SameImages, rows: list[tuple[str, torch.Tensor, tuple[str, ...]]]) -> dict[str, Result]:
    shape = shared.examples.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or not rows:
        return {}
    names, images, notes = zip(*rows, strict=True)
    columns = tuple(f"{position:.0%} of the way" for position in POSITIONS)
    pixels = torch.stack([row.double() for row in images]).numpy()
    caption = "Every image on the path is classified as its ends are."
    return {"images": Gallery("Images along paths", names, columns, pixels, notes, caption, shared.conditions)}
