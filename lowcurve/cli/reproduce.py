"""The command `lowcurve reproduce`: an item of a paper at a scale, with the paper's numbers next to ours."""

import logging
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcurve.cli.ending import ends_in_words, say_end
from lowcurve.cli.parsing import new_parser, parse_words, split_names
from lowcurve.cli.processes import prepare_process
from lowcurve.cli.terminal import claims_table, console, log_to, print_json, progress_bars, table_content
from lowcurve.cli.threads import keep_threads
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.papers.common.context import Context, Item, Reproduction
    from lowcurve.results import Result
    from lowcurve.store import Run

log = logging.getLogger("lowcurve")
SMOKE = "A smoke run shows only that the item runs: its numbers mean nothing. Write --scale laptop for numbers."


def parse(command: str, words: list[str]) -> Any:
    """Parse the words after the command.

    Args:
        command: Its name, reproduce.
        words: The words after it.
    """
    parser = new_parser(command)
    parser.add_argument("key", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--scale", type=str, default="smoke")
    parser.add_argument("--data", type=str | None, default=None)
    parser.add_argument("--data_dir", type=str | None, default=None)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=str, default="")
    parser.add_argument("--minutes", type=float | None, default=None)
    parser.add_argument("--out", type=str | None, default=None)
    return parse_words(command, parser, words)


def run(command: str, words: list[str]) -> int:
    """Run the command.

    Args:
        command: Its name, reproduce.
        words: The words after it.

    Returns:
        The exit code: 0, or that of `say_end` after Ctrl-C and its like, or `--minutes`.
    """
    asked = parse(command, words)
    busy = prepare_process()
    if asked.list or not asked.key:
        return _list()
    from lowcurve.data import files_digest
    from lowcurve.papers.common.context import Context
    from lowcurve.papers.items import get_item
    from lowcurve.store import Run
    from lowcurve.store.provenance import describe_origin

    wanted = get_item(asked.key)
    data = wanted.data_at(asked.scale, asked.data)
    if asked.seeds < 1:
        raise InputError("at least one seed", asked.seeds, "write --seeds 2")
    if asked.minutes is not None and not 0 < asked.minutes < 1e6:
        raise InputError("a number of minutes above 0", asked.minutes, "write --minutes 8, or leave it out")
    paper = wanted.key.split("/")[0]
    run = Run(Path(asked.out or f"runs/reproduce-{paper}-{asked.scale}-{data}"))
    kept = f"{run.folder} keeps what is finished. Continue with the same command"
    run.make_folder()
    with run.lock(f"{command} {wanted.key}"), log_to(run):
        run.clean()
        keep_threads(run, 1)
        if busy:
            log.info("%s", busy)
        origin = describe_origin(shlex.join(["lowcurve", command, *words]))
        run.add_origin({**origin, "data": {"name": data, "files": files_digest(data, asked.data_dir)}})
        try:
            with ends_in_words(kept):
                with _for_minutes(asked.minutes), progress_bars() as progress:
                    rows = split_names(asked.rows)
                    context = Context(asked.scale, data, run, asked.data_dir, asked.seeds, rows, progress)
                    table, found, written = _make(wanted, context, run)
                # The bars are closed here: their last redraw would overwrite these lines.
                _show(table, found, context.scale, written)
        except KeyboardInterrupt as error:
            return say_end(error, f". {kept}")
    return 0


@contextmanager
def _for_minutes(minutes: float | None) -> Iterator[None]:
    """Raise KeyboardInterrupt after a number of minutes, or never."""
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


def _list() -> int:
    from lowcurve.papers.items import ITEMS

    if print_json([{"key": one.key, "title": one.title} for one in ITEMS.values()]):
        return 0
    width = max(map(len, ITEMS))
    for one in ITEMS.values():
        print(f"{one.key:<{width}}  {one.title}")
    return 0


def _make(item: "Item", context: "Context", run: "Run") -> "tuple[Result, Reproduction, Path]":
    """Make the item and write its numbers and its page."""
    from lowcurve.report import page
    from lowcurve.results import dump

    log.info("%s at scale %s on %s, in %s", item.key, context.scale, context.data, run.folder)
    began = time.monotonic()
    found = item.make(context)
    table = item.make_table(found, context)
    results = {"beside the paper": table, **found.results}
    seconds = time.monotonic() - began
    facts, name = _facts(item, context, found, seconds), item.key.split("/")[1]
    settings = {network: asdict(study) for network, study in context.settings.items()}
    dumped = {key: dump(value) for key, value in results.items()}
    run.write_json(f"{name}.json", {"facts": facts, "settings": settings, "results": dumped})
    title = f"{item.title}: {item.where} of {item.key.split('/')[0]}"
    lead = f"Made at scale {context.scale} on {context.data}, with the paper's numbers next to ours."
    warnings = [SMOKE] if context.scale == "smoke" else []
    written = run.write(f"{name}.html", page(title, lead, list(results.values()), facts, warnings))
    log.info("%s took %.0f s", item.key, seconds)
    return table, found, written


def _show(table: "Result", found: "Reproduction", scale: str, written: Path) -> None:
    """Print the result: at smoke scale only that nothing can be read from it."""
    from lowcurve.results import Table

    differs = list(found.differences_at(scale))
    shown = table_content(table) if isinstance(table, Table) else None
    if print_json({"scale": scale, "table": shown, "differs": differs, "report": str(written)}):
        return
    screen = console()
    if scale == "smoke":
        screen.print(SMOKE, soft_wrap=True)
    else:
        screen.print(claims_table(table))
        for line in differs:
            screen.print(line, markup=False, highlight=False, soft_wrap=True)
    screen.print(f"report: {written}", soft_wrap=True)


def _facts(item: "Item", context: "Context", found: "Reproduction", seconds: float) -> dict[str, Any]:
    from lowcurve.results import code_version
    from lowcurve.store.provenance import machine_facts

    differs = found.differences_at(context.scale)
    return {
        "item": item.key,
        "scale": context.scale,
        "data": context.data,
        "seeds": str(context.seeds),
        "verdicts": "by intervals",
        **({"rows": ",".join(context.rows)} if context.rows else {}),
        **({"differs": " ".join(differs)} if differs else {}),
        "lowcurve": code_version(),
        **machine_facts(),
        "took": f"{seconds:.0f} s, without what was there already",
    }
