"""Evaluate data a part at a time: shares of processes and shards, finished parts in a ledger, and the whole result."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lowcurve.data.examples import Examples
from lowcurve.data.stored import Spool
from lowcurve.data.streams import Own, Stream, count_of, first_of, parts_of
from lowcurve.errors import InputError
from lowcurve.evaluation.sharing import agree, gather
from lowcurve.network_calls import is_memory_error

Data = Examples | Stream
Shard = tuple[int, int]
FEW = 64
"""First images by which a folder of finished parts knows the data."""
MOST = 1024
"""Images of a part that are evaluated before the next ones follow."""
BYTES = 2**26
"""Bytes of a part's pixels in single precision; a part is never smaller than a batch."""


class Ledger(Protocol):
    """A store of finished work, so that an interrupted evaluation continues where it stopped.

    A dictionary will do. Use another one for another network, seed, radius or suite.
    """

    def get(self, key: str, /) -> Any:
        """Return what is stored under a key, or None."""
        ...

    def keys(self) -> Iterable[str]:
        """Return the keys."""
        ...

    def __setitem__(self, key: str, value: Any, /) -> None: ...


def open_ledger(place: Ledger | str | Path | None, model: nn.Module, data: Data, *settings: object) -> Ledger | None:
    """Return a ledger; that of a folder belongs to the network, the first images and the settings of a call.

    Args:
        place: A ledger, a folder or None.
        model: The network.
        data: The images.
        settings: Everything else that decides the results.
    """
    if not isinstance(place, str | Path):
        return place
    # Trainings import this module, and their code version must not depend on these; see results/versions.py.
    from lowcurve.results.naming import describe
    from lowcurve.store.ledgers import DiskLedger
    from lowcurve.store.weights import network_digest

    values = [_plain(value) for value in settings]
    key = f"{network_digest(model)} {first_of(data, FEW).digest} {count_of(data)} {describe(values)}"
    return DiskLedger(Path(place), key)


def _plain(value: object) -> object:
    """Return the numbers of a tensor, or the digest of images."""
    if not isinstance(value, Tensor):
        return value
    return value.tolist() if value.ndim < 2 else sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Share:
    """The rows of this process: those of a shard, shared by the processes of a Fabric.

    Args:
        fabric: Lightning Fabric, or None for a single process.
        shard: (number from 0, number of shards). Shard i of n has the rows i, i + n, i + 2 n and so on.

    Raises:
        InputError: If there is no such shard.
    """

    fabric: Any = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        first, step = self.shard or (0, 1)
        if not 0 <= first < step:
            raise InputError(
                "shard=(number, shards) with a number from 0 to shards - 1", self.shard, "write shard=(0, 3)"
            )

    def own(self, finished: Tensor) -> Own:
        """Return the rows of this process."""
        first, step = self.shard or (0, 1)
        rank, ranks = (0, 1) if self.fabric is None else (self.fabric.global_rank, self.fabric.world_size)
        return Own(first + step * rank, step * ranks, finished)

    def places(self, rows: Tensor) -> Tensor:
        """Return the places of rows in the shard's result."""
        first, step = self.shard or (0, 1)
        return (rows - first) // step


def part_size(data: Data, batch_size: int) -> int:
    """Return the number of images in a part: whole batches, at most `MOST` images and `BYTES` unless a batch has more."""
    one = first_of(data, 1)
    most = min(MOST, BYTES // max(4 * one.x[:].numel(), 1))
    return batch_size * max(1, most // batch_size)


@dataclass(frozen=True)
class Piece:
    """A part of the data that this process evaluates.

    Attributes:
        rows: Numbers of the images.
        examples: The images.
        key: Name of the part in a ledger.
        title: " 2 of 5" for headings, empty if there is one part only.
    """

    rows: Tensor
    examples: Examples
    key: str
    title: str


def evaluate_parts(
    data: Data,
    size: int,
    compute: Callable[[Piece], dict[str, Tensor]],
    share: Share,
    ledger: Ledger | None = None,
    needs: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Compute columns for all images of a shard, each process its own parts, and return them whole on every process.

    A finished part goes to the ledger, from which the same call takes it again, with any number of processes or shards.
    An error of one process is raised in all of them: otherwise the others would wait for its rows for ever. A process whose
    memory is exhausted ends at once, and whatever started the processes ends the others.

    Args:
        data: The images.
        size: Images in a part.
        compute: Computes the columns of a part, one row per image. "inputs" may grow with the data, so it is spooled.
        share: The rows of this process.
        ledger: Store of finished parts.
        needs: Columns without which a part of the ledger is not finished.

    Raises:
        InputError: If the shard has no images.
    """
    whole = _Whole(share)
    failure: Exception | None = None
    alone = share.fabric is None or share.fabric.world_size == 1
    try:
        own = share.own(whole.restore(ledger, needs))
        count = count_of(data)
        total = None if count is None else -(-len(own.among(torch.arange(count))) // size)
        for number, (rows, examples) in enumerate(parts_of(data, own, size), 1):
            title = f", part {number}" if total is None else f", {number} of {total}" * (total > 1)
            piece = Piece(rows, examples, _key(rows), title)
            columns = compute(piece)
            if ledger is not None:
                ledger[piece.key] = {"finished": True, "rows": rows, **columns}
            whole.add(rows, columns)
    except Exception as error:
        if alone or is_memory_error(error):
            raise
        failure = error
    if not alone:
        agree(share.fabric, failure)
        whole.gather()
    return whole.columns()


class _Whole:
    """The columns of all parts, and the inputs in a spool."""

    def __init__(self, share: Share) -> None:
        self.share, self.spool = share, Spool()
        self.parts: list[dict[str, Tensor]] = []

    def add(self, rows: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Add the columns of some rows."""
        if "inputs" in columns:
            self.spool.write(self.share.places(rows), columns["inputs"])
        self.parts.append({"rows": rows, **{name: values for name, values in columns.items() if name != "inputs"}})

    def restore(self, ledger: Ledger | None, needs: Sequence[str]) -> Tensor:
        """Add the own rows of a ledger and return them."""
        known: Ledger = {} if ledger is None else ledger
        left_out = {"finished", "rows"} if "inputs" in needs else {"finished", "rows", "inputs"}
        for key in sorted(known.keys()):
            stored = known.get(key)
            if stored is None or not stored.get("finished") or not all(name in stored for name in needs):
                continue
            rows = torch.as_tensor(stored["rows"])
            mine = torch.isin(rows, self.share.own(self._rows()).among(rows))
            if bool(mine.any()):
                self.add(rows[mine], {k: torch.as_tensor(v)[mine] for k, v in stored.items() if k not in left_out})
        return self._rows()

    def gather(self) -> None:
        """Add the rows of the other processes, the inputs piece by piece."""
        mine, self.spool = self.spool, Spool()
        self.parts = [part for parts in gather(self.share.fabric, self.parts) for part in parts]
        pieces = mine.pieces()
        while any(found := gather(self.share.fabric, next(pieces, None))):
            for piece in found:
                if piece is not None:
                    self.spool.write(*piece)

    def columns(self) -> dict[str, Tensor]:
        """Return the columns in the order of the rows."""
        if not self.parts:
            raise InputError("at least one example", "none in this shard", "write fewer shards than there are images")
        order = self._rows().argsort()
        names = dict.fromkeys(name for part in self.parts for name in part if name != "rows")
        found = {name: torch.cat([part[name] for part in self.parts])[order] for name in names}
        return found | ({"inputs": self.spool.tensor()} if len(self.spool) else {})

    def _rows(self) -> Tensor:
        return torch.cat([part["rows"] for part in self.parts] or [torch.zeros(0, dtype=torch.int64)])


def _key(rows: Tensor) -> str:
    """Return the name of a part, which changes with its rows."""
    step = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    regular = bool((rows.diff() == step).all())
    told = f"rows {int(rows[0])} to {int(rows[-1])}" + f" in steps of {step}" * (step > 1)
    return told if regular else f"{told}, {sha256(rows.numpy().tobytes()).hexdigest()[:8]}"
