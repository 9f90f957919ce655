"""Networks that come with the package, with what was measured on them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from lowcurve.errors import InputError, nearest
from lowcurve.store.files import reading
from lowcurve.store.run import Run

FOLDER = Path(__file__).parents[1] / "pretrained"
CARDS = "cards.json"


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network that comes with the package.

    Attributes:
        name: Its name, METHOD-ARCHITECTURE-DATA in small letters.
        group: Name of the networks that were trained on the same data with the same settings.
        method: Training method, which is the network's name in its group.
        card: What is known of it: "sha256" of its file, "bytes", "measured" (the numbers by heading; a share is value and
            ends of its 95 % interval), "first images" (their number, clean accuracy, mean norms of gradient and Hessian),
            and "gray image" (its shape and logits).
        shared: What is known of the whole group: "data", "licence", "columns" (meaning and form of each number), "conditions",
            "made" (date, versions and machine).
    """

    name: str
    group: str
    method: str
    card: Mapping[str, Any]
    shared: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """File of the weights."""
        return FOLDER / self.group / "networks" / f"{self.method}.safetensors"


@cache
def list_pretrained() -> Mapping[str, PretrainedNetwork]:
    """Return the networks that come with the package, by name.

    Example:
        >>> list_pretrained()["cure-small-convnet-digits"].method
        'CURE'
    """
    found = {}
    for place in sorted(FOLDER.glob(f"*/{CARDS}")):
        content = json.loads(place.read_text("utf-8"))
        shared = {key: value for key, value in content.items() if key != "networks"}
        for name, card in content["networks"].items():
            found[name] = PretrainedNetwork(name, place.parent.name, card["method"], card, shared)
    return found


def find_pretrained(name: str) -> PretrainedNetwork:
    """Return the network of that name.

    Args:
        name: Its name, as `list_pretrained` has it.

    Raises:
        InputError: If there is none.
    """
    known = list_pretrained()
    if name not in known:
        hint = nearest(name, known, "write lowcurve models to see them")
        raise InputError("the name of a network that comes with the package", repr(name), hint)
    return known[name]


def load_pretrained(name: str) -> nn.Module:
    """Load a network that comes with the package, in eval mode. It maps pixels in [0, 1] to logits.

    Args:
        name: Its name, such as "cure-small-convnet-digits". `lowcurve models` lists all of them.

    Raises:
        InputError: If there is no such network, or if its file is damaged.

    Example:
        >>> model = load_pretrained("cure-small-convnet-digits")
        >>> model.training, sum(weights.numel() for weights in model.parameters()) > 1000
        (False, True)
    """
    found = find_pretrained(name)
    with reading(found.path):
        digest = sha256(found.path.read_bytes()).hexdigest()
    if digest != found.card["sha256"]:
        raise InputError(f"the weights of {name} as they were published", "other bytes", "install lowcurve again")
    return pretrained_run(found.group).load_network(found.method)


def pretrained_run(group: str) -> Run:
    """Return the networks of a group as a run that only reads: its settings and its networks.

    Args:
        group: Name of the group.

    Raises:
        InputError: If there is no such group.
    """
    groups = dict.fromkeys(one.group for one in list_pretrained().values())
    if group not in groups:
        expected = f"a group of networks that come with the package: {', '.join(groups)}"
        raise InputError(expected, repr(group), "write lowcurve models to see them")
    return Run(FOLDER / group, writes=False)
