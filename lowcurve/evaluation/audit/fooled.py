"""The record of the images that an audit's attacks fooled, joined in the ways that its tests ask for."""

from collections.abc import Sequence

import numpy as np

ONE_STEP = "FGSM"
"""Name of the attack of one step."""


class FooledImages:
    """The successes of an audit's attacks, one column of the correct images each.

    Attributes:
        fooled: For each attack at the ball's radius, which correct images it fooled.
        gradient_attacks: Names of the attacks that follow gradients.
        partial: Attacks tried on some images only.
        correct: True for each image that is classified correctly.
    """

    fooled: dict[str, np.ndarray]
    gradient_attacks: list[str]
    partial: set[str]
    correct: np.ndarray

    def _join(self, names: Sequence[str]) -> np.ndarray:
        found = np.zeros(int(self.correct.sum()), dtype=bool)
        for name in names:
            found |= self.fooled[name]
        return found

    def fooled_by_many_steps(self) -> np.ndarray:
        """Return which correct images were fooled by a gradient attack of more than one step."""
        return self._join([name for name in self.gradient_attacks if name != ONE_STEP])

    def fooled_by_gradients(self) -> np.ndarray:
        """Return which correct images were fooled by an attack that follows gradients."""
        return self._join(self.gradient_attacks)

    def fooled_by_any(self) -> np.ndarray:
        """Return which correct images were fooled by any attack at the ball's radius."""
        return self._join(list(self.fooled))

    def fooled_beyond_gradients(self) -> np.ndarray:
        """Return which correct images were fooled by an attack without gradients and by none with gradients."""
        return np.asarray(self.fooled_by_any() & ~self.fooled_by_gradients())

    def robust(self) -> np.ndarray:
        """Return which of all images are classified correctly and were fooled by nothing at the ball's radius."""
        return self.expand(~self.fooled_by_any())

    def robust_columns(self) -> dict[str, np.ndarray]:
        """Return which of all images are robust under each attack that was tried on all correct images."""
        return {name: self.expand(~found) for name, found in self.fooled.items() if name not in self.partial}

    def expand(self, of_correct: np.ndarray) -> np.ndarray:
        """Return a column of the correct images as one of all images, false where the network was wrong before."""
        column = np.zeros(len(self.correct), dtype=bool)
        column[self.correct] = of_correct
        return column

    def accuracy_points(self, rows: np.ndarray) -> float:
        """Return by how much the accuracy falls if these correct images are fooled: their share of all images."""
        return float(rows.sum()) / len(self.correct)
