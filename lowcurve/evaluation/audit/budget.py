"""What an audit may cost."""

from dataclasses import asdict, dataclass

from lowcurve.errors import InputError


@dataclass(frozen=True)
class Budget:
    """How much the tests may cost, for each example.

    steps: of PGD (tests 6 to 12), doubled in 8. walked: at most so many examples are walked to the end (8) and looked
    around (17); neighbors: random points around each. images: at most so many are shown to what costs more (9, 13, 14).
    apgd_steps: of the default suite's attacks by gradients, for whoever stands before 9. restarts: more starts of PGD after
    them. queries: of Square. noise_draws, noise_images: of brute force, half of them corners, for the survivors nearest
    to falling (15). spsa_steps, spsa_draws, spsa_images: of SPSA, at two distances with 2 draws queries a step each, and
    long_steps of the PGD beside it (16).

    By default a robust example costs about 1,500 gradients, two thirds of them those of APGD towards nine classes, and
    the queries that the names say; one that falls costs a tenth of that. With fewer than 100 examples of which the
    network is right, a single one is more than 1 %.
    """

    steps: int = 20
    restarts: int = 5
    images: int = 100
    walked: int = 50
    neighbors: int = 100
    apgd_steps: int = 100
    queries: int = 1000
    noise_draws: int = 10_000
    noise_images: int = 5
    spsa_steps: int = 20
    spsa_draws: int = 32
    spsa_images: int = 10
    long_steps: int = 100

    def __post_init__(self) -> None:
        small = {name: value for name, value in asdict(self).items() if value < 1}
        if small or self.queries < 2:
            raise InputError("a budget of at least 1 each, and 2 queries", small or {"queries": 1}, "write Budget()")
