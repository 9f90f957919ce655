"""Networks as programs of torch.export and as ONNX files, checked against the network itself."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lowcurve.errors import InputError
from lowcurve.libraries import require_library
from lowcurve.models import CenteredSoftplus, fold
from lowcurve.models.lipschitz import LipschitzLayer
from lowcurve.models.modes import frozen
from lowcurve.network_calls import ERRORS, call, first_line, is_memory_error, original_of, require_module
from lowcurve.store.files import replacing

log = logging.getLogger("lowcurve")
ALLOWED = 1e-4
"""Largest difference of a logit from torch's, as a share of the largest logit. Rounding makes less."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file of a network.

    Attributes:
        path: The file. Its input is `pixels`, shape (batch, ...), in [0, 1]; its output is `logits`.
        difference: Largest difference of a logit from torch's on the example. None if onnxruntime is not installed.
    """

    path: Path
    difference: float | None


def export_program(model: nn.Module, example: Tensor, *, any_batch: bool = True) -> ExportedProgram:
    """Export a network as a program of `torch.export`, in eval mode.

    A network that `convert` made is folded first: its own layers become plain ones. The program's logits are compared with the
    network's, on the example and, for batches of any size, on another size.

    Args:
        model: The network, pixels -> logits.
        example: A batch of inputs. It gives the shape of one.
        any_batch: Let the program take batches of any size. Otherwise it takes batches of the example's size.

    Returns:
        The program. `program.module()` is a module again, and `torch.export.save` writes it.

    Raises:
        InputError: If torch cannot export the network, or if the logits differ by more than rounding.

    Cost: a trace, and three forward passes.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> program = export_program(model, torch.zeros(2, 1, 2, 2))
        >>> program.module()(torch.zeros(5, 1, 2, 2)).shape
        torch.Size([5, 2])
    """
    require_module(model, "a torch.nn.Module to export")
    model = original_of(model)
    example = torch.cat([example, example]) if any_batch and len(example) == 1 else example
    with frozen(model), torch.no_grad():
        plain = _plain(model, example)
        shapes = ({0: Dim("batch")},) if any_batch else None
        try:
            with _quiet():
                program = torch.export.export(plain, (example,), dynamic_shapes=shapes)
            sizes = (example, example[:1].expand(3, *example.shape[1:]).contiguous()) if any_batch else (example,)
            found = max(_difference(program.module()(x), call(model, x)) for x in sizes)
        except (*ERRORS, torch._dynamo.exc.TorchDynamoException) as error:
            if is_memory_error(error):
                raise
            hint = "write any_batch=False, or replace the operation that torch.export names"
            raise InputError("a network that torch.export can follow", first_line(error), hint) from error
    if not found <= ALLOWED:
        hint = "give the network in eval mode, without random layers"
        raise InputError("a program with the network's logits", f"logits that differ by {found:.2g} of them", hint)
    return program


def export_onnx(model: nn.Module, path: str | Path, example: Tensor, *, any_batch: bool = True) -> OnnxFile:
    """Write a network as one ONNX file, in eval mode, with its normalization inside.

    A network that `convert` made is folded first. If onnxruntime is installed, the file's logits are compared with the
    network's.

    Args:
        model: The network, pixels -> logits.
        path: The file to write.
        example: A batch of inputs. It gives the shape of one.
        any_batch: Let the file take batches of any size. Otherwise it takes batches of the example's size, which some
            verifiers need.

    Returns:
        The file, and how much its logits differ from torch's.

    Raises:
        InputError: If onnx or onnxscript is not installed, if torch cannot export the network, or if the logits differ by more
            than rounding.

    Cost: a trace, and four forward passes.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
        ...     export_onnx(model, f"{folder}/net.onnx", torch.rand(2, 1, 2, 2)).difference < 1e-6
        True
    """
    for library in ("onnx", "onnxscript"):
        require_library(library, install="'lowcurve[onnx]'")
    path, names = Path(path), {"input_names": ["pixels"], "output_names": ["logits"]}
    program = export_program(model, example, any_batch=any_batch)
    with replacing(path) as temporary, _quiet():
        torch.onnx.export(program, (), temporary, external_data=False, verbose=False, **names)  # type: ignore[arg-type]
    with frozen(model), torch.no_grad():
        difference = _difference_at_runtime(path, example, call(model, example))
    if difference is not None and not difference <= ALLOWED:
        hint = "report the network's layers as an issue of torch.onnx"
        raise InputError("an ONNX file with the network's logits", f"logits that differ by {difference:.2g}", hint)
    return OnnxFile(path, difference)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no warnings of torch's exporter, which are about torch's own code and operations of torchvision."""
    torch_log = logging.getLogger("torch.onnx")
    level = torch_log.level
    torch_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch_log.setLevel(level)


def _plain(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a converted network folded, and any other as it is."""
    own = any(isinstance(part, LipschitzLayer | CenteredSoftplus) for part in model.modules())
    return fold(model, example=example) if own else model


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest logit."""
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-12)


def _difference_at_runtime(path: Path, example: Tensor, expected: Tensor) -> float | None:
    try:
        runtime = require_library("onnxruntime", install="'lowcurve[onnx]'")
    except InputError:
        log.warning("onnxruntime is not installed, so %s was not compared with the network", path)
        return None
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": example.cpu().numpy()})
    return _difference(torch.from_numpy(logits), expected.cpu())
