"""Eigenvalues of symmetric matrices, of which some may be NaN."""

import torch
from torch import Tensor


def symmetric_eigenvalues(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and eigenvectors of symmetric matrices; NaN for a matrix with NaN or infinity.

    LAPACK would raise an error for the whole batch instead.

    Args:
        matrices: Shape (batch, d, d).

    Returns:
        Values in ascending order, shape (batch, d), and vectors in columns, shape (batch, d, d).

    Cost: that of `torch.linalg.eigh`.

    Example:
        >>> broken = torch.stack([torch.eye(2), torch.full((2, 2), torch.nan)])
        >>> symmetric_eigenvalues(broken)[0]
        tensor([[1., 1.],
                [nan, nan]])
    """
    finite = matrices.isfinite().flatten(1).all(1)[:, None]
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None], matrices, 0))
    return torch.where(finite, values, torch.nan), torch.where(finite[:, None], vectors, torch.nan)
