"""Test whether straight segments stay within the region of a class, by samples or by certified balls.

Lengths are l_2 in pixel units.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, per_example
from lowcurve.geometry.regions import inner_margin
from lowcurve.losses import loss_field
from lowcurve.types import Classifier, Inputs, Labels, Measure, PerExample


@dataclass(frozen=True)
class Segments:
    """One straight segment per row, with the class whose region it should not leave.

    Attributes:
        start: Starts, shape (segments, ...).
        end: Ends.
        y: Classes.
    """

    start: Inputs
    end: Inputs
    y: Labels

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: Tensor) -> "Segments":
        """Select some segments."""
        return Segments(self.start[rows], self.end[rows], self.y[rows])

    def at(self, rows: Tensor, share: Tensor) -> Inputs:
        """Return one point for each row, at that share of the segment."""
        start = self.start[rows]
        return start + per_example(share.to(start), start) * (self.end[rows] - start)

    @property
    def length(self) -> PerExample:
        """||end - start||."""
        return L2.length(self.end - self.start)


@dataclass(frozen=True)
class Sampling:
    """The result of `sample_segments`.

    Attributes:
        clear: True where no sample lies outside.
        clearance: The smallest inner margin of the samples; where one lies outside, of only some of them.
        forward_passes: Forward images spent.
    """

    clear: Tensor
    clearance: PerExample
    forward_passes: Tensor


def sample_segments(model: Classifier, segments: Segments, spacing: PerExample, *, chunk: int = 256) -> Sampling:
    """Test the points start + j (end - start) / n, 0 < j < n, with n = ceil(length / spacing).

    Points are visited from coarse to fine, by halving, and not beyond the level at which a segment was found
    outside. The ends are not tested. All segments share full batches.

    Args:
        model: The network.
        segments: The segments.
        spacing: Spacing of each segment, l_2 in pixel units.
        chunk: Batch size.

    Returns:
        The segments that are clear, and their clearance.

    Cost: n - 1 forward images for a clear segment; often a few for another.

    Example:
        >>> ways = Segments(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        >>> found = sample_segments(torch.nn.Identity(), ways, torch.tensor([0.1]))
        >>> found.clear, found.forward_passes  # the first sample, 8/15 of the way, lies in the other region
        (tensor([False]), tensor([1]))
    """
    parts = torch.ceil(segments.length.double() / spacing.double()).long()
    levels = torch.ceil((parts + (parts == 0)).double().log2()).long()
    smallest = torch.full_like(segments.length, torch.inf)
    forward_passes = torch.zeros_like(parts)
    for level in range(1, int(levels.max()) + 1 if len(parts) else 1):
        open_ = torch.nonzero((smallest > 0) & (levels >= level)).flatten()
        stride = 2 ** (levels[open_] - level)
        counts = ((parts[open_] - 1) // stride + 1) // 2  # odd multiples of the stride below the count of parts
        ends = counts.cumsum(0)
        first = ends - counts

        def test_samples(
            part: slice, open_: Tensor = open_, stride: Tensor = stride, ends: Tensor = ends, first: Tensor = first
        ) -> None:
            number = torch.arange(part.start, part.stop, device=ends.device)
            row = torch.searchsorted(ends, number, right=True)
            place = (2 * (number - first[row]) + 1) * stride[row]
            rows = open_[row]
            seen = inner_margin(model, segments.at(rows, place.double() / parts[rows]), segments.y[rows])
            smallest.scatter_reduce_(0, rows, seen.nan_to_num(-torch.inf).to(smallest), "amin")

        in_chunks(test_samples, int(counts.sum()), chunk)
        forward_passes[open_] += counts
    return Sampling(smallest > 0, smallest, forward_passes)


@dataclass(frozen=True)
class Coverage:
    """The result of `cover_segments`.

    Attributes:
        certified: True where the balls cover the segment. This proves that it lies in the region.
        outside: True where a center of a ball lies outside.
        forward_passes: Number of centers, each with the certificate's gradients.
    """

    certified: Tensor
    outside: Tensor
    forward_passes: Tensor


def cover_segments(
    model: Classifier, segments: Segments, certificate: Measure, *, most: int = 1000, chunk: int = 256
) -> Coverage:
    """Cover segments with balls of certified radius, each in the middle of an uncovered part.

    A segment that needs more than `most` balls, or at which a radius is 0, is not certified; it may still lie in
    the region. Each radius is reduced by the rounding of its center.

    Args:
        model: The network.
        segments: The segments.
        certificate: A measure with the column "certified radius", such as `CertifiedRadius`.
        most: Maximum number of balls per segment.
        chunk: Batch size.

    Returns:
        The segments that are certified, and those found outside.

    Cost: about length / (2 radius) balls, with the gradients of the certificate; all segments share full batches.
    """
    length = segments.length.double()
    rounding = (
        4 * torch.finfo(segments.start.dtype).eps * (L2.length(segments.start) + L2.length(segments.end)).double()
    )
    row = torch.arange(len(segments), device=length.device)
    low, high = torch.zeros_like(length), length.clone()
    outside, given_up = torch.zeros_like(row, dtype=torch.bool), torch.zeros_like(row, dtype=torch.bool)
    forward_passes = torch.zeros_like(row)
    while len(row):
        middle, half = (low + high) / 2, (high - low) / 2
        share = torch.where(length[row] > 0, middle / length[row], 0)

        def test_samples(part: slice, row: Tensor = row, share: Tensor = share) -> tuple[Tensor, Tensor]:
            rows = row[part]
            x, y = segments.at(rows, share[part]), segments.y[rows]
            return inner_margin(model, x, y), certified_radius(certificate, model, x, y).double()

        seen, radii = (torch.cat(parts) for parts in zip(*in_chunks(test_samples, len(row), chunk), strict=True))
        forward_passes.index_add_(0, row, torch.ones_like(row))
        outside[row[~(seen > 0)]] = True
        reach = radii * (1 - 1e-6) - rounding[row]
        given_up[row[~(reach > 0)]] = True
        bare = ~(reach >= half)
        given_up[row[bare & (forward_passes >= most)[row]]] = True
        left = bare & ~(outside | given_up)[row]
        row = torch.cat([row[left], row[left]])
        low, high = torch.cat([low[left], (middle + reach)[left]]), torch.cat([(middle - reach)[left], high[left]])
    return Coverage(~(outside | given_up), outside, forward_passes)


def certified_radius(certificate: Measure, model: Classifier, x: Inputs, y: Labels) -> PerExample:
    """Return the column "certified radius" of a certificate.

    Args:
        certificate: The measure.
        model: The network.
        x: Points, shape (batch, ...).
        y: The class of each point.

    Returns:
        One radius per point.
    """
    found = certificate(loss_field(model, y), x)
    return found if isinstance(found, Tensor) else found["certified radius"]
