"""Lanczos, power iteration and dense spectra against dense eigenvalue problems in double precision."""

import logging

import pytest
import torch
from operators import OPERATOR, SPECTRA, H, Matrices, X, points, turned
from scipy.sparse.linalg import eigsh
from torch.testing import assert_close

from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.estimates import frobenius_norm
from lowcurve.analysis.krylov import orthogonalize, start_krylov
from lowcurve.analysis.norms import L2
from lowcurve.analysis.spectra import dense, lanczos, power_iteration, spectrum
from lowcurve.errors import InputError
from lowcurve.randomness import stream
from lowcurve.types import BatchedOperator

EXACT = torch.linalg.eigvalsh(H)


@pytest.mark.parametrize("steps", [12, 40])
def test_lanczos_finds_the_ends_of_the_spectrum(steps):
    ends = lanczos(OPERATOR, X, steps=steps, tolerance=1e-10)
    assert_close(ends.smallest, EXACT[:, 0])
    assert_close(ends.largest, EXACT[:, -1])
    assert_close(ends.spectral_norm, EXACT.abs().amax(1))
    for vector, value in ((ends.vector_smallest, ends.smallest), (ends.vector_largest, ends.largest)):
        assert vector.shape == X.shape
        assert_close(L2.length(vector), torch.ones(4, dtype=torch.float64))
        assert_close(OPERATOR(vector), value[:, None, None, None] * vector, rtol=1e-6, atol=1e-8)
    assert ends.products.shape == (4,)
    assert ends.max_products <= 12
    assert bool(ends.converged.all())


def test_lanczos_against_arpack():
    h = turned(SPECTRA["1/k^2"](1, 200) * torch.where(torch.arange(200) % 3 == 1, -1, 1))
    ends = lanczos(Matrices(h), points(1, 200), steps=60, tolerance=1e-9, ends="both")
    assert ends.max_products < 60
    expected = sorted(eigsh(h[0].numpy(), k=2, which="BE", return_eigenvectors=False))
    assert_close(torch.stack([ends.smallest[0], ends.largest[0]]).tolist(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", SPECTRA)
def test_an_eigenvalue_lies_within_every_residual(kind, dtype):
    """2,560 matrices, at every step: the bound holds with its allowance for rounding, the residual is what it says."""
    for d in (2, 3, 9, 40):
        h = turned(SPECTRA[kind](40, d)).to(dtype)
        exact, operator = torch.linalg.eigvalsh(h.double()), Matrices(h)
        start = points(40, d, dtype=dtype)
        for steps in range(1, min(d, 12) + 1):
            ends = lanczos(operator, start, steps=steps, tolerance=0)
            for value, residual, vector in (
                (ends.smallest, ends.residual_smallest, ends.vector_smallest),
                (ends.largest, ends.residual_largest, ends.vector_largest),
            ):
                assert bool(((exact - value[:, None].double()).abs().amin(1) <= residual.double()).all())
                true = (
                    torch.einsum("bij,bj->bi", h.double(), vector.double()) - value[:, None].double() * vector.double()
                )
                allowance = 256 * torch.finfo(dtype).eps * exact.abs().amax(1)
                assert bool((residual.double() - L2.length(true) <= allowance).all())
                assert bool((L2.length(true) <= residual.double()).all())


def test_the_residual_of_an_operator_that_is_not_symmetric_is_still_its_residual():
    skew = Matrices(H + 0.1 * (H.triu() - H.tril()))
    for steps in (1, 3, 6):
        ends = lanczos(skew, X, steps=steps, tolerance=0)
        for value, residual, vector in (
            (ends.smallest, ends.residual_smallest, ends.vector_smallest),
            (ends.spectral_norm * torch.where(ends.largest < -ends.smallest, -1, 1), ends.residual, ends.vector),
        ):
            assert_close(L2.length(skew(vector) - value[:, None, None, None] * vector), residual, rtol=1e-6, atol=1e-9)


def test_lanczos_survives_a_zero_start_a_zero_matrix_and_an_invariant_subspace():
    matrix = torch.diag(torch.tensor([-3.0, -2.0, -1.0, -0.5]))
    ends = lanczos(lambda v: v @ matrix, torch.eye(4)[:2] * torch.tensor([[1.0], [0.0]]), steps=4, tolerance=0)
    assert_close(ends.smallest, torch.tensor([-3.0, -3.0]), rtol=1e-5, atol=1e-5)
    assert_close(ends.largest, torch.tensor([-0.5, -0.5]), rtol=1e-5, atol=1e-5)
    flat = lanczos(torch.zeros_like, torch.ones(2, 4), steps=4)
    assert_close(flat.spectral_norm, torch.zeros(2))
    assert_close(flat.residual, torch.zeros(2))
    assert flat.products.tolist() == [2, 2]
    alone = lanczos(lambda v: -3 * v, torch.zeros(2, 1), steps=9)
    assert_close(alone.smallest, torch.tensor([-3.0, -3.0]))
    assert alone.products.tolist() == [1, 1]


def test_a_start_that_is_an_eigenvector_is_not_taken_for_the_whole():
    """The residual is 0 at once; of rank one, a random vector shows that this is all, and else the rest is found."""
    values = torch.tensor([1.0, 5.0, -7.0, *[0.0] * 30])
    start = torch.eye(33)[:1]
    ends = lanczos(lambda v: v * values, start)
    assert_close(ends.smallest, torch.tensor([-7.0]))
    assert bool(ends.converged)
    one = lanczos(lambda v: v * values * (values == 1), start)
    assert_close(one.spectral_norm, torch.tensor([1.0]))
    assert one.products.tolist() == [3]
    assert bool(one.converged)


def test_the_largest_eigenvalue_is_found_where_the_start_has_nothing_of_it():
    """As of one image of 128 of a real network: the residual of the second says nothing of the first."""
    values = torch.cat([torch.tensor([3977.0, 3094.0, -2337.0]), torch.linspace(-900, 900, 300)])
    start = torch.rand(1, 303, generator=stream(0, "start"))
    start[0, 0] = 0
    ends = lanczos(lambda v: v * values, start)
    assert_close(ends.spectral_norm, torch.tensor([3977.0]), rtol=1e-3, atol=0)
    assert bool(ends.converged)


def test_both_ends_or_the_one_of_largest_magnitude():
    values = torch.cat([torch.linspace(-1, 1, 200), torch.tensor([10.0])]).double()
    h, start = Matrices(turned(values[None])), points(1, 201)
    one, both = lanczos(h, start, steps=100), lanczos(h, start, steps=100, ends="both")
    assert int(one.products) < int(both.products) < 100
    assert float(one.residual) <= 1e-3 * 10 < float(one.residual_smallest)
    assert max(float(both.residual_smallest), float(both.residual_largest)) <= 1e-3 * 10
    short = lanczos(h, start, steps=int(one.products) - 1)
    assert not bool(short.converged)
    assert float(short.residual) > 1e-3 * float(short.spectral_norm)


def mixed(batch, d, dtype):
    """Easy and hard spectra in one batch."""
    kinds = list(SPECTRA.values())
    matrices = torch.stack([turned(kinds[k % len(kinds)](1, d), seed=k)[0] for k in range(batch)])
    return matrices.to(dtype), points(batch, d, dtype=dtype)


@pytest.mark.parametrize("ends", ["norm", "both"])
def test_an_example_does_not_depend_on_its_batch(ends):
    h, start = mixed(24, 40, torch.float64)
    start[5] = 0
    batched = lanczos(Matrices(h), start, steps=15, ends=ends)
    beside = lanczos(Matrices(h).one_by_one, start, steps=15, ends=ends)
    assert len(set(batched.products.tolist())) > 3
    for k in range(24):
        alone = lanczos(Matrices(h[k : k + 1]), start[k : k + 1], steps=15, ends=ends)
        for name in vars(alone):
            expected = getattr(alone, name)
            for found in (batched, beside):
                assert_close(getattr(found, name)[k : k + 1], expected, rtol=1e-9, atol=1e-12, msg=f"{k} {name}")


def test_who_is_done_leaves():
    h, start = mixed(24, 40, torch.float32)
    operator = Matrices(h)
    assert isinstance(operator, BatchedOperator)
    ends = lanczos(operator, start)
    assert operator.work[0] == 24
    assert operator.work == sorted(operator.work, reverse=True)
    assert operator.work[-1] < 24 * 2 / 3
    assert int(ends.products.sum()) <= sum(operator.work) < 0.8 * 24 * ends.max_products
    plain = Matrices(h)
    lanczos(plain.one_by_one, start)
    assert plain.work == [24] * ends.max_products


def test_an_example_that_is_not_a_number_spoils_no_other():
    h = H.clone()
    h[1, 0, 0] = torch.nan
    ends = lanczos(Matrices(h), X, steps=12)
    assert ends.spectral_norm.isnan().tolist() == [False, True, False, False]
    assert ends.converged.tolist() == [True, False, True, True]
    assert_close(ends.spectral_norm[[0, 2, 3]], lanczos(OPERATOR, X, steps=12).spectral_norm[[0, 2, 3]])


def test_no_examples_at_all():
    none = Matrices(H[:0])
    assert lanczos(none, X[:0]).vector.shape == (0, 3, 2, 2)
    assert lanczos(none, X[:0]).max_products == 0
    assert dense(none, X[:0]).shape == (0, 12, 12)
    assert spectrum(H[:0]).shape == (0, 12)


def test_the_basis_is_orthonormal_and_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    h = turned(SPECTRA["e^-k"](8, 60)).float()
    space = start_krylov(Matrices(h), points(8, 60, dtype=torch.float32), 30)
    space.extend(30)
    lanczos(Matrices(h), torch.zeros(8, 60))
    frobenius_norm(Matrices(h), points(8, 60, dtype=torch.float32), draws=2, generator=stream(0))
    gram = space.basis @ space.basis.mT
    assert_close(gram, torch.eye(30).expand(8, -1, -1), rtol=0, atol=2e-6)
    away, inside = orthogonalize(torch.ones(5, 8, 60), space.basis)
    assert_close(torch.einsum("bkd,nbd->nbk", space.basis, away), torch.zeros(5, 8, 30), rtol=0, atol=1e-5)
    assert_close(away + torch.einsum("nbk,bkd->nbd", inside, space.basis), torch.ones(5, 8, 60), rtol=0, atol=1e-5)
    assert torch.equal(before, torch.get_rng_state())


def test_power_iteration():
    h = turned(torch.tensor([[1.0, 0.5, -0.2, 0.0], [-2.0, 1.0, 0.0, 0.0], [3.0, -3.0, 1.0, 0.5]]))
    power = power_iteration(Matrices(h), points(3, 4), steps=40)
    assert_close(power.norm, torch.tensor([1.0, 2.0, 3.0]).double())
    assert_close(power.rayleigh[:2], torch.tensor([1.0, 2.0]).double())
    assert float(power.rayleigh[2]) < 2.999  # -3 and 3 cancel in part
    assert_close(L2.length(power.vector), torch.ones(3, dtype=torch.float64))
    assert_close(L2.length(Matrices(h)(power.vector)), power.norm)
    few = power_iteration(OPERATOR, X, steps=3)
    assert bool((few.rayleigh <= few.norm).all())
    assert bool((few.norm <= EXACT.abs().amax(1)).all())
    tiny = power_iteration(Matrices(1e-20 * H.float()), X.float(), steps=3)
    assert_close(1e20 * tiny.norm, few.norm.float())
    assert_close(power_iteration(torch.zeros_like, X).norm, torch.zeros(4, dtype=torch.float64))


def test_dense_and_spectrum():
    for operator in (OPERATOR, OPERATOR.one_by_one):
        for chunk in (1, 7, 20, 1000):
            assert_close(dense(operator, X, chunk=chunk), H)
    skew = H + torch.arange(12) * (torch.ones(12, 12) - torch.eye(12)).double()
    before = skew.clone()
    assert_close(spectrum(skew), torch.linalg.eigvalsh((skew + skew.mT) / 2))
    assert torch.equal(skew, before)
    assert spectrum(H.float()).dtype == torch.float32


def test_dense_asks_for_many_columns_at_once_and_shows_how_far_it_is():
    shown = []

    def progress(iterable, heading):
        shown.append(heading)
        for item in iterable:
            shown.append(item)
            yield item

    operator = Matrices(H)
    dense(operator, X, chunk=20, progress=progress)
    assert operator.work == [20, 20, 8]
    assert shown == ["Hessian columns", *range(12)]


def test_matrices_that_are_too_large_are_refused_before_any_product():
    def never(_v):
        raise AssertionError

    with pytest.raises(
        InputError, match=r"matrices of at most 4 GiB, got 114 of size 3072 x 3072, 4.01 GiB\. Take spec"
    ):
        dense(never, torch.zeros(114, 3, 32, 32))
    with pytest.raises(InputError, match="or lanczos for the extreme values, or fewer examples"):
        dense(never, torch.zeros(2, 8), limit=8 * 8 * 4 * 2 - 1)
    assert dense(lambda v: v, torch.zeros(2, 8), limit=8 * 8 * 4 * 2).shape == (2, 8, 8)


CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), CPU, MemoryError(), RuntimeError("MPS backend out of memory")],
)
def test_chunks_halve_when_memory_does_not_suffice(error, caplog):
    asked = []

    def function(part):
        asked.append(part.stop - part.start)
        if asked[-1] > 3:
            raise error
        return list(range(part.start, part.stop))

    with caplog.at_level(logging.WARNING, "lowcurve"):
        results = in_chunks(function, 11, 20)
    assert [number for result in results for number in result] == list(range(11))
    assert asked == [11, 6, 3, 3, 3, 2]
    assert caplog.messages[0] == "not enough memory for 11 at once; going on with 6"
    assert len(caplog.messages) == 2


def test_dense_goes_on_in_smaller_chunks():
    class Tight(Matrices):
        def apply_many(self, vectors):
            if len(vectors) > 2:
                raise CPU
            return super().apply_many(vectors)

    operator = Tight(H)
    assert_close(dense(operator, X), H)
    assert operator.work == [8] * 6


def test_what_one_alone_cannot_do_and_every_other_error_pass():
    def function(_part):
        raise error

    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        CPU,
        MemoryError(),
        RuntimeError("shapes"),
        ValueError(),
    ):
        with pytest.raises(type(error)) as caught:
            in_chunks(function, 5, 4)
        assert caught.value is error
    assert in_chunks(function, 0, 4) == []
    with pytest.raises(InputError, match="a chunk size of at least 1, got 0"):
        in_chunks(function, 5, 0)
