"""The options that each command's short help shows, in plain words."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    Args:
        value: Placeholder of its value; empty for a switch.
        text: What it does.
        default: Its default in words; empty if there is nothing to say.
    """

    value: str
    text: str
    default: str = ""


OUT = Option("DIR", "New directory for the run", "one under runs/")
DATA_DIR = Option("DIR", "Folder of parquet files, for work offline", "$LOWCURVE_DATA")
RUN = Option("", "Directory of an earlier run")
JSON = Option("", "Print the table as JSON; messages go to standard error")

STUDY: Mapping[str, Option] = {
    "RUN": RUN,
    "data": Option(
        "NAME",
        "Data set: digits, colored-digits, two-moons, mnist, cifar10, cifar100, svhn, tiny-imagenet, or the path of an image "
        "folder or of parquet files",
        "digits",
    ),
    "data-dir": DATA_DIR,
    "scale": Option("NAME", "Scale: smoke (seconds), laptop (minutes), paper (GPU)", "laptop"),
    "methods": Option(
        "A,B",
        "Training methods: standard, CURE, gradient-norm, CURE+gradient-norm, FGSM, RS-FGSM, N-FGSM, CURE+N-FGSM, "
        "gradient-norm+N-FGSM, SORA, PGD, gradient-norm+PGD, TRADES, LLR, GradAlign, ELLE-A, DeepFool, adversarial-set, "
        "LCNN, LCNN+gradient-norm, minimal, teacher, distillation",
        "standard,CURE,gradient-norm,PGD",
    ),
    "network": Option(
        "NAME",
        "Network: mlp, small-convnet, yu2018-mnist, yu2018-cifar, resnet18, resnet20, wide-resnet28-10, lcnn-resnet18, "
        "lcnn-resnet18-plain, lcnn-vgg11, vit-tiny, vit-tiny-patch8, convnext-atto, convnext-tiny or aol-convnet",
        "set by --data and --scale",
    ),
    "model": Option("MODULE:FUNC", "Your own network: a function without arguments that returns it"),
    "weights": Option("FILE", "State dict for --model: a file or its folder", "FUNC's own"),
    "mean": Option("A,B,C", "Pixel means if --model expects normalized inputs, e.g. 0.49,0.48,0.45"),
    "std": Option("A,B,C", "Standard deviations that belong to --mean, e.g. 0.25,0.24,0.26"),
    "train": Option("", "With --model: also train --methods. Without it, nothing is trained"),
    "norm": Option("NAME", "Norm of the attacks, linf, l2 or l1", "linf"),
    "radius": Option(
        "R",
        "Radius of the attacks (epsilon) for pixels in [0, 1]: 8/255, 0.03 or pixels:8. Also --eps",
        "set by --data",
    ),
    "suite": Option(
        "NAME",
        "Attacks that decide robustness: strong, autoattack, moosavi2019cure, srinivas2022lcnn, yu2018-mnist or "
        "yu2018-cifar10",
        "strong",
    ),
    "training.epochs": Option("N", "Epochs of training", "set by --data and --scale"),
    "evaluation.examples": Option("N", "Test examples that are attacked", "set by --data and --scale"),
    "evaluation.first": Option("true", "Take the first test examples, where --scale takes random ones", "false"),
    "evaluation.steps": Option("N", "Steps of the PGD attack", "20, at scale smoke 3"),
    "evaluation.audited": Option("N", "Examples on which gradient masking is tested, 0 for none", "120, at smoke 8"),
    "evaluation.audit": Option(
        "NAME", "Audit: usual (what the verdict needs) or thorough (all). Also --audit", "usual"
    ),
    "evaluation.curvature-examples": Option("N", "Test examples that are measured", "set by --data and --scale"),
    "evaluation.lanczos-steps": Option("N", "Hessian products for each eigenvalue", "12, at scale smoke 4"),
    "seed": Option("N", "Seed of everything that is random", "0"),
    "accelerator": Option("NAME", "Hardware: auto, cpu or cuda", "auto"),
    "devices": Option("N", "Processes that share the work on each machine", "1"),
    "loggers": Option("A,B", "Logs: csv, tensorboard, wandb, mlflow or trackio", "csv"),
    "jobs": Option("N", "Networks side by side on the CPU", "one for each free core"),
    "full": Option("", "Also make the expensive figures: paths between images"),
    "pretrained": Option("GROUP", "Train nothing: evaluate networks of lowcurve's own, such as digits"),
    "out": OUT,
    "resume": Option("RUN", "Continue this run with its own settings"),
    "config": Option("FILE", "Read settings from a YAML file; options given here override it"),
    "print-config": Option("", "Print all settings as YAML and exit"),
    "json": JSON,
}
"""Options of the commands study, train, measure, attack and report."""

DRAW: Mapping[str, Option] = {
    "KIND": Option("", "What to draw:"),
    "RUN": Option("", "Directory of a run with trained networks"),
    "networks": Option("A,B", "Networks of the run, in this order", "all"),
    "examples": Option("N", "Number of images", "by kind"),
    "points": Option("N", "Grid points along a side of a plane", "101"),
    "seed": Option("N", "Seed of the random directions", "the run's"),
    "out": Option("DIR", "Directory for the pictures", "RUN/drawn"),
    "static": Option("FORM", "Also write a file per figure: pdf, png or svg"),
    "data-dir": DATA_DIR,
}
"""Options of the command draw."""

REPRODUCE: Mapping[str, Option] = {
    "KEY": Option("", "PAPER/ITEM, as --list shows it"),
    "list": Option("", "List all items, one per line: key, then title"),
    "scale": Option(
        "NAME", "Scale: smoke (seconds; the numbers mean nothing), laptop (two cores) or paper (a GPU)", "smoke"
    ),
    "data": Option("NAME", "Another data set", "set by KEY and --scale"),
    "data-dir": DATA_DIR,
    "seeds": Option("N", "Networks trained of each kind", "2"),
    "rows": Option("A,B", "Only these rows of the table, such as standard,LCNN", "all"),
    "minutes": Option("N", "Stop after so many minutes. The same command continues where it stopped", "no limit"),
    "out": Option("DIR", "Directory of the results", "runs/reproduce-PAPER-SCALE-DATA"),
    "json": JSON,
}
"""Options of the command reproduce."""

REPORT: Mapping[str, Option] = {
    "RUN": Option("", "Directory of a run. With several, one page shows their networks side by side"),
    "static": Option(
        "", "Write the page without scripts too, as RUN/report-static.html; of several runs, only this one"
    ),
    "out": Option("FILE", "Page of several runs", "next to the first run"),
    "json": JSON,
}
"""Options of the command report."""

RECIPES: Mapping[str, Option] = {
    "KEY": Option("", "Show this recipe whole: quotation, settings, what differs"),
    "json": JSON,
}
"""Options of the command recipes."""

MODELS: Mapping[str, Option] = {"NAME": Option("", "Show this network's card"), "json": JSON}
"""Options of the command models."""

DOCTOR: Mapping[str, Option] = {"data-dir": DATA_DIR, "json": JSON}
"""Options of the command doctor."""

COMPLETION: Mapping[str, Option] = {"SHELL": Option("", "bash, zsh, fish, tcsh or powershell")}
"""Options of the command completion."""
