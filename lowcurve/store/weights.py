"""Load the weights of a file into a network, whatever wrapped the network when they were saved."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lowcurve import randomness
from lowcurve.errors import InputError, describe
from lowcurve.models.wrapping import is_of_transformers
from lowcurve.store.weight_files import Unread, read_weights

State = Mapping[str, Tensor]
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that DataParallel, torch.compile, FSDP and activation checkpointing add."""
STATE_NAMES = ("state_dict", "model_state_dict", "model", "ema", "weights")
"""Usual names of the entry that holds the state dict. Any other is found as well."""
AVERAGES = "n_averaged"
"""A count that `torch.optim.swa_utils.AveragedModel` adds to the weights."""
OPTIONAL = "num_batches_tracked"
"""Ending of a name that old files lack. Torch fills it in."""
PLAIN = (bool, int, float, str, tuple)
"""Types of the attributes by which `network_digest` tells layers apart."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load safetensors, or a state dict saved by torch, into a model.

    The state dict may be an entry of a dictionary, such as "state_dict", "model" or "ema". Prefixes that wrappers leave in
    the names, such as "module." and "_orig_mod.", and a common prefix, such as Lightning's "model.", are removed or added
    where this makes all names fit. Files of transformers have other names than its networks in memory; its own
    `from_pretrained` then translates them. Other entries, such as a namespace of settings, are not read. Pickled modules
    are refused, because loading them runs code.

    Args:
        model: Network that receives the weights.
        path: Path of a .safetensors, .bin, .pt, .pth, .th or .ckpt file, of the index of several files
            (.index.json), or of a folder with one of these.

    Raises:
        InputError: If the file is missing, damaged or no state dict, if names or shapes do not match the model, or if
            several state dicts in the file fit.
    """
    path = Path(path)
    content = read_weights(path)
    states = _state_dicts(content)
    if not states:
        raise InputError(f"a state dict in {path}", _describe_content(content), "save model.state_dict()")
    fits: dict[str, State] = {}
    for entry, state in states.items():
        for prefix, renamed in fit_names(model, state).items():
            if not any(_are_equal(renamed, other) for other in fits.values()):
                fits[f"{entry}.{prefix}".strip(".") or "the file itself"] = renamed
    if not fits and _load_as_transformers(model, states):
        return
    if len(fits) > 1:
        hint = "save the one that you mean alone"
        raise InputError(f"one state dict for {type(model).__name__} in {path}", f"several: {', '.join(fits)}", hint)
    try:
        model.load_state_dict(next(iter(fits.values())) if fits else _nearest(model, states.values()))
    except RuntimeError as error:
        received = " ".join(_shorten(line) for line in str(error).split("\n\t")[1:]) or str(error)
        hint = "give the factory that made them"
        raise InputError(f"weights of {type(model).__name__} in {path}", received, hint) from None


def _load_as_transformers(model: nn.Module, states: Mapping[str, State]) -> bool:
    """Load a state dict into a network of transformers, which saves weights under other names than those in memory.

    Returns False if the network is none, or if a weight is missing, unexpected or of another shape.
    """
    network = next((part for part in model.modules() if is_of_transformers(part)), None)
    if network is None or len(states) != 1 or len([*network.parameters()]) != len([*model.parameters()]):
        return False
    (state,) = states.values()
    plain = {name: state[full] for name, full in _without_wrappers(state).items()}
    kind: Any = type(network)
    with randomness.temporary_seed(0, "weights"), _silent("transformers"):
        try:
            loaded, report = kind.from_pretrained(
                None, config=network.config, state_dict=plain, output_loading_info=True
            )
        except Exception:  # whatever transformers raises for weights of another network
            return False
    if any(report.values()):
        return False
    network.load_state_dict(loaded.state_dict())
    return True


@contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Show only errors of a library's logger inside the block."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def fit_names(model: nn.Module, state: State) -> dict[str, State]:
    """Return a state dict with the model's own names, for each prefix without which its names and shapes fit.

    Names that share one tensor in the model may be missing but for one, as safetensors saves them.

    Args:
        model: The network.
        state: Tensors by name.

    Returns:
        State dicts by prefix; empty if nothing fits.

    Example:
        >>> list(fit_names(nn.Linear(1, 1), {"module.net.weight": torch.ones(1, 1), "module.net.bias": torch.ones(1)}))
        ['net.']
    """
    own = model.state_dict(keep_vars=True)
    if own.keys() == state.keys():
        return {"": state} if all(is_lazy(own[k]) or own[k].shape == v.shape for k, v in state.items()) else {}
    names = _without_wrappers(own)
    found = _without_wrappers(name for name in state if name != AVERAGES or name in own)
    shared: dict[int, list[str]] = {}
    for plain, name in names.items():
        shared.setdefault(id(own[name]), []).append(plain)
    groups = [group for group in shared.values() if not group[0].endswith(OPTIONAL)]
    first = groups[0] if groups else []
    prefixes = {
        plain.removesuffix(name) for plain in found for name in first if plain == name or plain.endswith(f".{name}")
    }
    fits: dict[str, State] = {}
    for prefix in sorted(prefixes):
        here = {plain.removeprefix(prefix): name for plain, name in found.items() if plain.startswith(prefix)}
        values = {plain: state[name] for plain, name in here.items()}
        present = [[plain for plain in group if plain in values] for group in groups]
        alike = all(
            group and all(torch.equal(values[group[0]], values[plain]) for plain in group[1:]) for group in present
        )
        # Without a prefix, further names are no other module's: the state dict is another network's.
        strange = values.keys() - names.keys()
        if alike and (not strange or (not prefix and len(prefixes) > 1)):
            values = {plain: value for plain, value in values.items() if plain in names}
            values |= {plain: values[had[0]] for group, had in zip(groups, present, strict=True) for plain in group}
            if all(is_lazy(own[names[k]]) or own[names[k]].shape == value.shape for k, value in values.items()):
                fits[prefix] = {names[plain]: value for plain, value in values.items()}
    return fits


def _nearest(model: nn.Module, states: Iterable[State]) -> State:
    """Return the state dict with the most names of the model, without a prefix that hides them, for an error message."""
    names, best, most = _without_wrappers(model.state_dict()), next(iter(states)), 0
    for state in states:
        found = _without_wrappers(state)
        ends = {plain.removesuffix(name) for name in names for plain in found if plain.endswith(f".{name}")}
        for prefix in ("", *sorted(ends)):
            renamed = {plain.removeprefix(prefix): state[name] for plain, name in found.items()}
            if len(common := names.keys() & renamed.keys()) > most:
                best, most = {names.get(plain, plain): value for plain, value in renamed.items()}, len(common)
    return best


def _without_wrappers(state: Iterable[str]) -> dict[str, str]:
    """Return the names by what remains of them without the parts that wrappers add."""
    names = list(state)
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in names}
    return plain if len(plain) == len(names) else dict(zip(names, names, strict=True))


def _state_dicts(content: Any) -> dict[str, State]:
    """Return what may be a state dict: the content itself, or its entries, by name."""
    if not isinstance(content, Mapping):
        return {}
    if _is_state(content):
        return {"": content}
    inner = {str(name): _state_dicts(value) for name, value in content.items() if isinstance(value, Mapping) and value}
    return {f"{name}.{below}".strip("."): state for name, found in inner.items() for below, state in found.items()}


def _is_state(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _are_equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _describe_content(content: Any) -> str:
    """Say what a file holds instead of a state dict."""
    if isinstance(content, Tensor):
        return f"a tensor of shape {tuple(content.shape)}"
    if isinstance(content, Unread):
        return f"an object of {type(content).__module__}.{type(content).__name__}"
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}" if isinstance(content, list | tuple | set) else describe(content)
    for name in STATE_NAMES:
        if name in content:
            return f"a dictionary whose entry {name!r} is {_describe_content(content[name])}"
    odd = sorted(content.items(), key=lambda pair: isinstance(pair[0], str) and isinstance(pair[1], Tensor))
    some = ", ".join(f"{name!r} ({type(value).__name__})" for name, value in odd[:3])
    return f"a dictionary with the entries {some}"


def _shorten(line: str) -> str:
    """Keep the first three names of a line of torch's message."""
    names = line.split('", "')
    more = f'" and {len(names) - 3} more.' if len(names) > 3 else ""
    return '", "'.join(names[:3]).strip() + more


def weights_digest(model: nn.Module) -> str:
    """Return sixteen hexadecimal digits that change with the names and values of a network's weights and buffers.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> before = weights_digest(layer)
        >>> layer.bias.data.add_(1.0).numel(), weights_digest(layer) == before
        (1, False)
    """
    found = sha256()
    for name, value in model.state_dict().items():
        found.update((f"{name} {value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else name).encode())
        found.update(_bytes_of(value))
    return found.hexdigest()[:16]


def network_digest(model: nn.Module) -> str:
    """Return sixteen hexadecimal digits that change with a network's weights, types of layers and layers' attributes.

    Attributes count if they are numbers, text, tuples or tensors. Functions and classes count by their names.

    Example:
        >>> network_digest(nn.ELU(1.0)) == network_digest(nn.ELU(2.0)), network_digest(nn.ELU()) == network_digest(nn.ELU())
        (False, True)
    """
    found = sha256(weights_digest(model).encode())
    for name, layer in model.named_modules():
        found.update(f"{name} {type(layer).__module__}.{type(layer).__qualname__}".encode())
        for key, value in (vars(layer) | dict(layer.named_buffers(recurse=False))).items():
            if isinstance(value, Tensor):
                found.update(key.encode() + _bytes_of(value))
            elif isinstance(value, PLAIN) and key != "training":
                found.update(f"{key} {value!r}".encode())
            elif hasattr(value, "__qualname__"):
                found.update(f"{key} {getattr(value, '__module__', '')}.{value.__qualname__}".encode())
    return found.hexdigest()[:16]


def _bytes_of(value: Any) -> bytes:
    """Return the content of a tensor, or of the tuple in which a quantized layer has its weights."""
    if isinstance(value, tuple):
        return b"".join(map(_bytes_of, value))
    if not isinstance(value, Tensor):
        return repr(value).encode()
    plain = value.detach().dequantize() if value.is_quantized else value.detach()
    return plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
