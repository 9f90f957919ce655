"""DeepFool: the way to the nearest boundary of the network's linear model, again and again until it is crossed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.calculus import jacobian
from lowcurve.analysis.norms import L2, Ball, Norm, as_norm, per_example
from lowcurve.attacks.active_set import pursue
from lowcurve.attacks.base import Attack, Options
from lowcurve.attacks.state import Images, Rows, fooled, prepare
from lowcurve.attacks.targets import Target, require_target, target_of
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.types import Classifier, Inputs, Labels, Logits, PerExample


@dataclass(frozen=True)
class DeepFool(Attack):
    """x' = x + (1 + overshoot) (r_1 + r_2 + ...) with r_i the shortest step to a class boundary of the linearized network,
    then drawn back towards x as far as it still fools the network: a point just across a boundary that is near.

    Of an affine network it is the nearest boundary, at min_k (z_y - z_k) / ||w_y - w_k||_dual, and of any other an upper
    bound of that distance. No radius holds it back: x itself where x is misclassified already, the point of highest
    margin loss where no boundary was crossed in `steps`. What leaves the pixel box is clipped and forgotten; in the second
    half of the steps pixels that stand at its edge already are left out of account, or some images would never cross.

    norm: l_2 or l_inf. overshoot: of the whole perturbation, as in the paper; beside it each step aims beyond the
    boundary by more than rounding, so that a batch of another size sees the crossing too. candidates: so many of the
    likeliest other classes are looked at in each step. target: None, or the only class whose boundary is looked for (as in
    `PGD`; another class in between is crossed as gladly). bisections: of the way from x to the crossing, which undo the
    overshoot to a share of 2^-bisections; 0 leaves the paper's answer. Nothing is drawn. Parameters receive no gradient.

    Called: start, of x's shape, is where the path begins in place of x.
    Cost: two forward passes and an input gradient a candidate for each step until the crossing (3 steps for most
    images, more where many pixels lie at the edge of the box), one forward pass a bisection.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> x = torch.tensor([[0.3, 0.4]])
        >>> found = DeepFool(box=(-1.0, 1.0), bisections=20)(model, x, torch.tensor([0]))
        >>> L2.length(found - x).round(decimals=3)  # from (0.3, 0.4) to the line 3a + 4b = 0
        tensor([0.5000])

    Reference: Moosavi-Dezfooli et al. 2016, Algorithm 2 and section 3.3.
    """

    takes_start = True
    norm: Norm | str = L2
    box: tuple[float, float] = (0.0, 1.0)
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10
    target: Target = None
    bisections: int = 10

    def __post_init__(self) -> None:
        if self.steps < 1 or self.candidates < 1 or self.bisections < 0:
            found = (self.steps, self.candidates, self.bisections)
            raise InputError("a step, a candidate and no fewer than 0 bisections", found, "write DeepFool(steps=50)")
        if not 0 <= self.overshoot < 1:
            raise InputError("an overshoot from 0 to 1", self.overshoot, "write overshoot=0.02 for two per cent")
        require_target(self.target)
        object.__setattr__(self, "norm", self.whole.norm)

    @property
    def whole(self) -> Ball:
        """The pixel box, as a ball whose radius is given with each projection."""
        return Ball(as_norm(self.norm), 0.0, self.box)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """The adversarial inputs x', of x's shape."""
        with frozen(model):
            return self.answer(prepare(model, x, y, self.whole, options)).detach()

    def answer(self, images: Images) -> Inputs:
        """x' of images that have been prepared, of a model in eval mode."""
        found = pursue(self, images, stop=True)
        return shortened(images, found.point, found.fallen, self.whole, self.bisections)

    def begin(self, images: Images) -> Rows:
        """x itself, or the given start."""
        moved = torch.zeros_like(images.x)
        if images.start is not None:
            moved = (inside(self.whole, images.start, images.x) - images.x) / (1 + self.overshoot)
        return {"point": inside(self.whole, images.x + (1 + self.overshoot) * moved, images.x), "moved": moved}

    def step(self, images: Images, rows: Rows) -> tuple[Logits, Rows]:
        """The shortest step to a boundary of the linear model; who is across already spends no gradient."""
        point, moved = rows["point"], rows["moved"].clone()
        with torch.no_grad():
            logits = images.look(point)
        left = torch.nonzero(~fooled(logits, images.y)).flatten()
        if len(left):
            late = rows["step"][left] >= self.steps // 2
            moved[left] += self._shortest(images.take(left), point[left], logits[left], late)
        point = inside(self.whole, images.x + (1 + self.overshoot) * moved, images.x)
        return logits, {"point": point, "moved": (point - images.x) / (1 + self.overshoot)}

    def value(self, images: Images, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (the signature of Walk)
        """The margin loss, which rises above 0 at the boundary."""
        return margin_loss(logits, images.y)

    def _shortest(self, images: Images, point: Inputs, logits: Logits, late: Tensor) -> Tensor:
        """The step to the nearest of the candidates' boundaries."""
        classes, y = self._candidates(images, logits), images.y[:, None]

        def against(inputs: Tensor) -> Tensor:
            there = images.look(inputs)
            return there.gather(1, classes) - there.gather(1, y)

        slopes = jacobian(against, point)
        here = point[:, None]
        stuck = ((slopes > 0) & (here >= self.box[1])) | ((slopes < 0) & (here <= self.box[0]))
        slopes = torch.where(stuck & per_example(late, slopes), 0, slopes)
        # Four times what `fooled` asks for.
        beyond = min(256 * torch.finfo(logits.dtype).eps, 4e-2) * logits.abs().amax(1, keepdim=True)
        gaps = beyond + logits.gather(1, y) - logits.gather(1, classes)
        steepness = self.whole.norm.dual.length(slopes.flatten(0, 1)).view_as(gaps)
        lengths = torch.where(steepness > 0, gaps / torch.where(steepness > 0, steepness, 1), torch.inf)
        length, nearest = lengths.min(1)
        direction = self.whole.norm.steepest(slopes[torch.arange(len(point), device=point.device), nearest])
        return per_example(torch.where(torch.isfinite(length), length, 0), point) * direction

    def _candidates(self, images: Images, logits: Logits) -> Tensor:
        """The classes whose boundaries are looked at, (batch, candidates)."""
        if self.target is not None:
            return target_of(self.target, images.logits, images.y)[:, None]
        others = logits.scatter(1, images.y[:, None], -torch.inf)
        return others.topk(min(self.candidates, logits.shape[1] - 1), dim=1).indices


def RunnerUp(norm: Norm | str = L2) -> DeepFool:
    """x' = the first point across on the ascent of z_k - z_y from x, k the second likeliest class there.

    Each step goes as far as the linear model of the network says and a little beyond, so that no step size is to be chosen;
    the report that it follows states none. Classified wrongly already, x stays.

    Example:
        >>> RunnerUp().target, RunnerUp().bisections
        (1, 0)

    Reference: bardusco_report, section 2.1.1 (the adversarial set).
    """
    return DeepFool(norm, target=1, bisections=0)


def inside(whole: Ball, point: Inputs, x: Inputs) -> Inputs:
    """The point moved into the pixel box, however far from x."""
    return whole.project(point, x, torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device))


def shortened(images: Images, point: Inputs, fallen: Tensor, whole: Ball, bisections: int) -> Inputs:
    """Where the point has fallen, the nearest to x of the points on the way there that bisection finds to fool the network."""
    rows = torch.nonzero(fallen & (L2.length(point - images.x) > 0)).flatten()
    if not len(rows) or not bisections:
        return point
    few, way = images.take(rows), point[rows] - images.x[rows]
    stands, falls = torch.zeros_like(few.radius), torch.ones_like(few.radius)

    def at(share: PerExample) -> Inputs:
        return inside(whole, few.x + per_example(share, way) * way, few.x)

    for _ in range(bisections):
        middle = (stands + falls) / 2
        with torch.no_grad():
            across = fooled(few.look(at(middle)), few.y)
        stands, falls = torch.where(across, stands, middle), torch.where(across, middle, falls)
    nearest = point.clone()
    nearest[rows] = torch.where(per_example(falls < 1, way), at(falls), point[rows])
    return nearest
