"""Matrices that act on images, of known spectra."""

import torch

from lowcurve import randomness
from lowcurve.randomness import stream


class Matrices:
    """One matrix an example as an operator of the kind `BatchedOperator`, which counts the rows that it multiplies."""

    def __init__(self, matrices, work=None):
        self.matrices, self.work = matrices, [] if work is None else work

    def __call__(self, v):
        return self.apply_many(v[None])[0]

    def apply_many(self, vectors):
        self.work.append(vectors.shape[0] * vectors.shape[1])
        assert vectors.shape[1] == len(self.matrices)
        return torch.einsum("bij,kbj->kbi", self.matrices, vectors.flatten(2)).reshape(vectors.shape)

    def take(self, rows):
        return Matrices(self.matrices[rows], self.work)

    def one_by_one(self, v):
        """The same as an operator of the plain kind."""
        return self(v)


SPECTRA = {
    "normal": lambda batch, d: randomness.normal(torch.zeros(batch, d), generator=stream(0, "normal", d)),
    "1/k^2": lambda batch, d: (torch.arange(1, d + 1) ** -2.0).expand(batch, d),
    "e^-k": lambda batch, d: (-torch.arange(d).double()).exp().expand(batch, d),
    "low rank": lambda batch, d: torch.arange(d).expand(batch, d) * (torch.arange(d) >= d - 3),
    "flat": lambda batch, d: 1 + torch.linspace(0, 1e-4, d).expand(batch, d),
    "signs": lambda batch, d: ((-1) ** torch.arange(d)).expand(batch, d),
    "tiny": lambda batch, d: 1e-25 * torch.linspace(-2, 3, d).expand(batch, d),
    "zero": lambda batch, d: torch.zeros(batch, d),
}


def turned(values, seed=0):
    """Symmetric matrices with these eigenvalues and random eigenvectors, in double precision."""
    batch, d = values.shape
    draw = randomness.normal(torch.zeros(batch, d, d).double(), generator=stream(seed, "turn", d))
    q = torch.linalg.qr(draw)[0]
    matrices = (q * values.double()[:, None]) @ q.mT
    return (matrices + matrices.mT) / 2


def points(batch, *shape, dtype=torch.float64, seed=0):
    return randomness.normal(torch.zeros(batch, *shape), generator=stream(seed, "points")).to(dtype)


H = turned(SPECTRA["normal"](4, 12))


OPERATOR = Matrices(H)


X = points(4, 3, 2, 2)
