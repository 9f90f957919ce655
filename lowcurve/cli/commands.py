"""The table of commands, and the entry point that runs one of them."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from lowcurve.cli import options
from lowcurve.cli.ending import as_sentence, ended_by_signals, ends_in_words, say_end
from lowcurve.cli.options import Option
from lowcurve.errors import InputError, nearest


@dataclass(frozen=True)
class Command:
    """One command of `lowcurve`.

    Args:
        summary: What it does, as an instruction.
        run: The function that runs it, as module:function. It takes the command's name and the words after it.
        arguments: Its positional arguments, as in a usage line.
        examples: Command lines that work.
        options: All options by name. A table in `cli.options` describes them.
        shown: The names in its short help, in this order.
        note: Further lines for its help.
    """

    summary: str
    run: str
    arguments: str
    examples: tuple[str, ...]
    options: Mapping[str, Option]
    shown: tuple[str, ...]
    note: str = ""


OWN_NETWORK = ("model", "weights", "mean", "std")
FILES = ("out", "config", "print-config", "json")
EXAMPLE = "my_nets:resnet --weights resnet.pt --data cifar10"
COMMANDS: dict[str, Command] = {
    "study": Command(
        "train networks, measure their curvature, attack them and write a report",
        "lowcurve.cli.study:run",
        "",
        ("lowcurve study --data mnist --methods standard,CURE --eps 0.1", f"lowcurve study --model {EXAMPLE} --train"),
        options.STUDY,
        (
            *("data", "data-dir", "scale", "methods", "network", *OWN_NETWORK, "train"),
            *("norm", "radius", "suite", "training.epochs", "evaluation.examples", "seed", "accelerator"),
            *("jobs", "loggers", "full", "pretrained", "out", "resume", "config", "json"),
        ),
    ),
    "train": Command(
        "train the networks of a study, or of a paper's recipe, into a run directory",
        "lowcurve.cli.study:run",
        "[RUN | RECIPE]",
        ("lowcurve train --data cifar10 --methods standard,LCNN", "lowcurve train moosavi2019cure/table-2/cure"),
        options.STUDY,
        (
            *("data", "data-dir", "scale", "methods", "network", *OWN_NETWORK),
            *("norm", "radius", "training.epochs", "seed", "accelerator", "devices", "jobs", "loggers", *FILES),
        ),
        "RUN continues an earlier run; RECIPE is a key that lowcurve recipes lists.",
    ),
    "measure": Command(
        "measure the input-space curvature of a run's networks, or of your own",
        "lowcurve.cli.study:run",
        "[RUN]",
        ("lowcurve measure runs/mine", f"lowcurve measure --model {EXAMPLE}"),
        options.STUDY,
        (
            *("RUN", *OWN_NETWORK, "data", "data-dir", "scale", "norm", "radius"),
            *("evaluation.curvature-examples", "evaluation.first", "evaluation.lanczos-steps"),
            *("seed", "accelerator", "devices", "jobs", "loggers", "full", *FILES),
        ),
    ),
    "attack": Command(
        "attack a run's networks, or your own, and audit the result",
        "lowcurve.cli.study:run",
        "[RUN]",
        ("lowcurve attack runs/mine --eps 8/255", f"lowcurve attack --model {EXAMPLE}"),
        options.STUDY,
        (
            *("RUN", *OWN_NETWORK, "data", "data-dir", "scale", "norm", "radius", "suite"),
            *("evaluation.examples", "evaluation.first", "evaluation.steps", "evaluation.audited"),
            *("seed", "accelerator", "devices", "jobs", "loggers"),
            *FILES,
        ),
    ),
    "audit": Command(
        "attack your own network, or a run's, and test whether the robust accuracy can be believed",
        "lowcurve.cli.audit:run",
        "[RUN]",
        (f"lowcurve audit --model {EXAMPLE} --eps 8/255", "lowcurve audit runs/mine --audit thorough"),
        options.STUDY,
        (
            *("RUN", *OWN_NETWORK, "data", "data-dir", "norm", "radius", "suite"),
            *("evaluation.audited", "evaluation.audit", "evaluation.first", "seed", "accelerator", *FILES),
        ),
        "Writes audit.json and audit.html. Exit codes: 0 if no test failed, 1 if the robust accuracy is\n"
        "unreliable, 3 if the network is hardly better than guessing, 2 after an error.",
    ),
    "report": Command(
        "write a run's study.json and report.html again, or show several runs side by side",
        "lowcurve.cli.report:report",
        "RUN [RUN ...]",
        ("lowcurve report runs/mine --static", "lowcurve report runs/mine runs/other --out both.html"),
        options.REPORT,
        tuple(options.REPORT),
    ),
    "recipes": Command(
        "list the papers' settings that lowcurve train takes by name, or show one",
        "lowcurve.cli.recipes:run",
        "[KEY]",
        ("lowcurve recipes moosavi2019cure/table-2/cure",),
        options.RECIPES,
        tuple(options.RECIPES),
    ),
    "models": Command(
        "list the trained networks that come with lowcurve, or show what was measured on one",
        "lowcurve.cli.models:run",
        "[NAME]",
        ("lowcurve models cure-small-convnet-digits",),
        options.MODELS,
        tuple(options.MODELS),
        "In Python: lowcurve.load_pretrained(NAME). As a report: lowcurve study --pretrained GROUP.",
    ),
    "reproduce": Command(
        "reproduce a paper's table or figure, with the paper's numbers next to ours",
        "lowcurve.cli.reproduce:run",
        "KEY",
        ("lowcurve reproduce --list | grep lcnn", "lowcurve reproduce srinivas2022lcnn/table-1 --scale laptop"),
        options.REPRODUCE,
        tuple(options.REPRODUCE),
        "Finished networks and results are kept in --out and used again, also by the paper's other items.\n"
        "What was made by other code or with other settings is made again.",
    ),
    "draw": Command(
        "draw a run's networks: boundaries, surfaces, input gradients",
        "lowcurve.cli.draw:run",
        "KIND RUN",
        ("lowcurve draw surface runs/mine --networks standard,CURE --static pdf",),
        options.DRAW,
        tuple(options.DRAW),
        "The networks are drawn side by side at test images that all of them classify correctly.\n"
        "Writes KIND.json and KIND.html (a page that opens offline).",
    ),
    "doctor": Command(
        "show versions, devices, data and optional packages: what is missing, and how to get it",
        "lowcurve.cli.doctor:run",
        "",
        ("lowcurve doctor", "lowcurve doctor --json > machine.json"),
        options.DOCTOR,
        tuple(options.DOCTOR),
        "Ends with 1 if something that every command needs is missing.",
    ),
    "completion": Command(
        "print a script that completes commands and options in your shell",
        "lowcurve.cli.completion:run",
        "SHELL",
        (
            "lowcurve completion bash > ~/.local/share/bash-completion/completions/lowcurve",
            "lowcurve completion zsh > ~/.zfunc/_lowcurve",
            "lowcurve completion fish > ~/.config/fish/completions/lowcurve.fish",
        ),
        options.COMPLETION,
        tuple(options.COMPLETION),
    ),
}


def main(words: list[str] | None = None) -> int:
    """Run one command.

    Args:
        words: The words after `lowcurve`; those of the process by default.

    Returns:
        0 when the command is done, 1 and 3 by the verdict of an audit, 2 after a sentence on what was wrong with the
        request, 130 after Ctrl-C, 143 and 129 after SIGTERM and SIGHUP, 141 when the reader of the output has closed it.
    """
    with ended_by_signals(for_good=words is None):
        try:
            with ends_in_words("Nothing that was written is lost"):
                code = _answer(sys.argv[1:] if words is None else words)
            sys.stdout.flush()
            return code
        except InputError as error:
            print(f"lowcurve: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as error:
            return say_end(error, " before anything was written")
        except BrokenPipeError:
            # The reader, such as `head`, has what it wants. Python flushes at exit once more, into nothing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (OSError, OverflowError, RecursionError, UnicodeError) as error:
            print(f"lowcurve: {as_sentence(error)}", file=sys.stderr)
            return 2


def _answer(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help") or words == ["help"]:
        from lowcurve.cli.help import overview

        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"lowcurve {version('lowcurve')}")
        return 0
    if words[0] == "help":
        words = [words[1], "--help"]
    return _run(words[0], words[1:])


def _run(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS, "write lowcurve --help")
        raise InputError(f"a command among {', '.join(COMMANDS)}", repr(name), hint)
    if {"-h", "--help"} & {*words}:
        from lowcurve.cli.help import short_help

        print(short_help(name))
        return 0
    from lowcurve.cli.terminal import printing

    if valued := [word for word in words if word.startswith("--json=")]:
        raise InputError("--json without a value", valued[0], "write --json")
    as_json = "json" in COMMANDS[name].options and "--json" in words
    module, _, function = COMMANDS[name].run.partition(":")
    with printing(as_json=as_json):
        done: int = getattr(import_module(module), function)(name, [w for w in words if not as_json or w != "--json"])
    return done
