# ruff: noqa: I001
from .norms import L1 as L1, L2 as L2, LINF as LINF, Ball as Ball, Norm as Norm, pixels as pixels
from .calculus import Jet as Jet
from .hessians import hessian as hessian, record_backends as record_backends
from .secants import secant_hessian as secant_hessian
from .spectra import lanczos as lanczos
