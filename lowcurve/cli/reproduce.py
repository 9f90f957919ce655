"""The command `lowcurve reproduce`: an item of a paper made at a scale, the paper's numbers beside ours."""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lowcurve.cli.processes import circumstances, settle
from lowcurve.cli.terminal import claims, logged, progress_bars
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.papers.common.context import Context, Item, Reproduction
    from lowcurve.store import Run

log = logging.getLogger("lowcurve")
DESCRIPTION = """Makes a table, figure or number of a paper, with the paper's numbers beside ours.

Networks and parts that are finished are kept in --out and taken up again, by other items of the paper, too; what was made by
other code or with other settings is made anew. Rows that were made elsewhere are taken up, too, once runs/ and parts/ of
their --out are copied into this one."""


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise InputError("options of lowcurve reproduce", message, "write lowcurve reproduce --help")


def asked(words: list[str]) -> argparse.Namespace:
    """What the words say."""
    parser = Parser(
        prog="lowcurve reproduce", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("key", nargs="?", help="PAPER/ITEM, as --list has it")
    parser.add_argument("--list", action="store_true", help="list the items")
    parser.add_argument(
        "--scale", default="smoke", help="smoke (seconds), laptop (two cores), paper (its own setting, a GPU)"
    )
    parser.add_argument("--data", help="another data set than the scale's")
    parser.add_argument("--data-dir", help="a folder of parquet files")
    parser.add_argument("--seeds", type=int, default=2, help="networks of each kind (default: 2)")
    parser.add_argument("--rows", default="", help='some models of a table alone: "standard,LCNN + gradient norm"')
    parser.add_argument(
        "--minutes", type=float, help="stop after so many, as after Ctrl-C: the same command goes on where it was"
    )
    parser.add_argument("--out", help="where it is kept (default: runs/reproduce-PAPER-SCALE-DATA)")
    return parser.parse_args([word.replace("data_dir", "data-dir") for word in words])


def reproduced(words: list[str]) -> int:
    """The command."""
    found = asked(words)
    settle()
    if found.list or not found.key:
        return _listed()
    from lowcurve.papers.common.context import Context
    from lowcurve.papers.items import get_item
    from lowcurve.store import Run

    wanted = get_item(found.key)
    data = wanted.data_at(found.scale, found.data)
    if found.seeds < 1:
        raise InputError("at least one seed", found.seeds, "write --seeds 2")
    if found.minutes is not None and not 0 < found.minutes < 1e6:
        raise InputError("a number of minutes above 0", found.minutes, "write --minutes 8, or leave it out")
    paper = wanted.key.split("/")[0]
    run = Run(Path(found.out or f"runs/reproduce-{paper}-{found.scale}-{data}"))
    try:
        with logged(run), _for_minutes(found.minutes), progress_bars() as progress:
            rows = tuple(row.strip() for row in found.rows.split(",") if row.strip())
            context = Context(found.scale, data, run, found.data_dir, found.seeds, rows, progress)
            return _made(wanted, context, run)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {run.folder} is whole. Go on with the same command", file=sys.stderr)
        return 130


@contextmanager
def _for_minutes(minutes: float | None) -> Iterator[None]:
    """Inside, Ctrl-C comes by itself after so many minutes."""
    if minutes is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _listed() -> int:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from lowcurve.papers.items import ITEMS

    listed = Table(title="Items", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("item", "what it is", "where", "on a laptop", "in the paper"):
        listed.add_column(heading, no_wrap=heading == "item")
    for one in ITEMS.values():
        listed.add_row(one.key, one.title, one.where, ", ".join(one.data), one.paper_data)
    Console().print(listed)
    return 0


def _made(item: "Item", context: "Context", run: "Run") -> int:
    from rich.console import Console

    from lowcurve.report import page
    from lowcurve.results import dump

    log.info("%s at scale %s on %s, in %s", item.key, context.scale, context.data, run.folder)
    began = time.monotonic()
    found = item.make(context)
    beside = item.make_table(found, context)
    results = {"beside the paper": beside, **found.results}
    seconds = time.monotonic() - began
    facts, name = _facts(item, context, found, seconds), item.key.split("/")[1]
    settings = {network: asdict(study) for network, study in context.settings.items()}
    dumped = {key: dump(value) for key, value in results.items()}
    run.write_json(f"{name}.json", {"facts": facts, "settings": settings, "results": dumped})
    title = f"{item.title}: {item.where} of {item.key.split('/')[0]}"
    lead = f"Made at the scale {context.scale} on {context.data}, with the paper's numbers beside ours."
    written = run.write(f"{name}.html", page(title, lead, list(results.values()), facts, []))
    log.info("%s took %.0f s", item.key, seconds)
    console = Console()
    console.print(claims(beside))
    for line in found.differences_at(context.scale):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {written}", soft_wrap=True)
    return 0


def _facts(item: "Item", context: "Context", reproduction: "Reproduction", seconds: float) -> dict[str, Any]:
    from lowcurve.results import code_version

    differs = reproduction.differences_at(context.scale)
    return {
        "item": item.key,
        "scale": context.scale,
        "data": context.data,
        "seeds": str(context.seeds),
        **({"rows": ",".join(context.rows)} if context.rows else {}),
        **({"differs": " ".join(differs)} if differs else {}),
        "lowcurve": code_version(),
        **circumstances(),
        "took": f"{seconds:.0f} s, without what was there already",
    }
