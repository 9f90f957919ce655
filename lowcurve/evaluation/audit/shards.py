"""Attacks of an audit that shards share through a ledger."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowcurve.evaluation.parts import Ledger, Shard


@dataclass
class SharedColumns:
    """The results of attacks on the correct images, with the finished ones in a ledger.

    Args:
        ledger: Store of what is finished. None for none.
        shard: (number, shards): images i, i + n and so on of the correct ones are attacked here. None for all.
        fabric: Processes that attack together; the first one writes.
        missing: True once something is needed that other shards have not finished.
    """

    ledger: Ledger | None = None
    shard: Shard | None = None
    fabric: Any = None
    missing: bool = False

    def column(self, name: str, rows: np.ndarray, compute: Callable[[np.ndarray], Tensor], unknown: Tensor) -> Tensor:
        """Return what an attack found on some images.

        Args:
            name: Name of the attack.
            rows: Indices of the images.
            compute: Attacks the images of some indices.
            unknown: What stands for images that other shards have not attacked yet.
        """
        if self.ledger is None:
            return compute(rows)
        name = sha256(name.encode()).hexdigest()[:16]  # keys may become names of files
        found, known = unknown.clone(), np.zeros(len(rows), dtype=bool)
        for key in sorted(self.ledger.keys()):
            stored = self.ledger.get(key) if key.startswith(f"{name} on ") else None
            if stored is not None:
                _, here, there = np.intersect1d(rows, stored["rows"], return_indices=True)
                found[here], known[here] = torch.as_tensor(stored["found"])[there], True
        number, shards = self.shard or (0, 1)
        own = ~known & (rows % shards == number)
        if own.any():
            values = compute(rows[own])
            found[torch.from_numpy(own)] = values
            if self.fabric is None or self.fabric.global_rank == 0:
                digest = sha256(rows[own].tobytes()).hexdigest()[:16]
                self.ledger[f"{name} on {digest}"] = {"rows": torch.from_numpy(rows[own]), "found": values}
        self.missing |= not (known | own).all()
        return found
