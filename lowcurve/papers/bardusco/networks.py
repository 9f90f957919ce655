"""Set up the networks of Bardusco's report at each scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from lowcurve.data import DataSet
from lowcurve.figures.same_images import SameImages
from lowcurve.papers.common.context import Context
from lowcurve.papers.recipes import get_recipe
from lowcurve.study.method_options import Cure
from lowcurve.study.presets import preset, shorten
from lowcurve.study.report_figures import same_images
from lowcurve.study.settings import Study

BASE, ADVERSARIAL_TRAINING, CURE, BASE_ON_A_TENTH = "base", "adversarial training", "CURE", "base on a tenth"
DIFFERS = (
    "The report has 18 natural and 30 adversarial pairs of one network on Tiny ImageNet; here the table states the number of "
    "pairs of each family, for one network with the settings of its preset.",
    "The report's projection stops just across the boundary ('as published'). Both halves then stay outside the region until "
    "they are shorter than the spacing, so the number of points depends on the spacing; 'beyond' projects further inwards.",
)
TRAINED = (
    "The report does not state its network, its batch size, or the weight and h of CURE; the recipes say what we use.",
    "CURE is trained on a tenth of the training images, as in the report; 'base on a tenth' is a standard network on the same.",
    "Every image of an adversarial set fools the network for which it was made. The report's 10 % are possible only if pixels "
    "were rounded to grey levels or BatchNorm was in another mode. Accuracies on the exact and the rounded set are shown.",
)


@dataclass(frozen=True)
class Networks:
    """The networks of the report.

    Attributes:
        study: The resolved study of the base network.
        data: Its data.
        models: Networks in eval mode by row of Table 1.
    """

    study: Study
    data: DataSet
    models: Mapping[str, nn.Module]

    def select_images(self, context: Context, count: int, points: int, *rows: str) -> SameImages:
        """Select the first test images that the networks of these rows all classify correctly.

        Args:
            context: The context of the item.
            count: Number of images.
            points: Grid points along a side of a plane.
            rows: Rows of Table 1.
        """
        shown = {row: self.models[row] for row in rows}
        return same_images(self.study, self.data, shown, count, points, context.progress)


def make_study(context: Context) -> Study:
    """Make the study of the base network: the report's at the scale paper, otherwise that of the preset of the data.

    Args:
        context: The context of the item.
    """
    if context.scale == "paper" and context.data == "tiny-imagenet":
        return get_recipe("bardusco_report/table-1/base").study()
    study = replace(preset(context.data), methods=("standard",), norm="l_2", radius="0.5")
    return shorten(study, epochs=10) if context.scale == "smoke" else study


def train_networks(context: Context) -> Networks:
    """Load or train the four networks: base, fine-tuned on an adversarial set, CURE and base on a tenth of the images.

    Args:
        context: The context of the item.
    """
    study = make_study(context)
    own = context.scale == "paper" and context.data == "tiny-imagenet"
    tuned = get_recipe("bardusco_report/table-1/adversarial").study() if own else study
    both = replace(study, methods=("standard", "adversarial-set"), others=tuned.others, fine_tuning=tuned.fine_tuning)
    made, data, first = context.load_or_train("base", both)
    if own:
        few = get_recipe("bardusco_report/table-1/cure").study()
    else:
        images = max(len(data.train) // 10, 64)
        few = replace(
            study, methods=("CURE",), limits=replace(study.limits, train=images),
            cure=Cure(weight=1.0, h=1.5, ramp=0.0, form="published", from_scratch=True),
            training=replace(study.training, epochs=2 * study.training.epochs),
        )  # fmt: skip
    _, _, second = context.load_or_train("tenth", replace(few, methods=("standard", "CURE")))
    models = {BASE: first["standard"], ADVERSARIAL_TRAINING: first["adversarial-set"]}
    return Networks(made, data, {**models, BASE_ON_A_TENTH: second["standard"], CURE: second["CURE"]})
