"""The cost of an audit."""

from dataclasses import asdict, dataclass

from lowcurve.errors import InputError


@dataclass(frozen=True)
class Budget:
    """The cost of an audit's tests.

    With the default budget a robust image costs about 800 gradients, in l_2 800 more, and the queries below. Next to the suite
    `strong` it costs about half of that, since the suite's attacks are not repeated. Then the queries of tests 15 and 16 only
    follow where the suite's own search came as far as its gradients. An image that is fooled costs about a tenth. With fewer
    than 100 correctly classified images, a single one is more than 1 %.

    Args:
        steps: Steps of PGD in tests 6, 7, 9 to 12, 22 and 24.
        restarts: Further random starts of PGD in test 9.
        images: Largest number of images. It holds for the costly tests 9, 13 and 14.
        streamed_images: Largest number of images of data that is not in memory, such as a loader. It holds for all tests.
        landscape_images: Largest number of images. It holds for losses and gradients around each image (17, 18).
        neighbors: Random points around each image in test 17.
        apgd_steps: Steps of the gradient attacks of the suite `strong`. They run on images that PGD leaves robust. Test 8
            doubles them.
        queries: Queries of Square in test 13.
        noise_draws: Random points per image in test 15. Half are corners of the ball.
        noise_images: Images in test 15. They are robust, with the highest loss under PGD.
        spsa_steps: Steps of SPSA at each of two distances in test 16.
        spsa_draws: Random directions per step of SPSA. Each costs two queries.
        spsa_images: Images in test 16.
        planted_images: Images in tests 22 and 24.
        long_steps: Steps of the PGD that SPSA is compared with.
        everything: Run every test, also those that the verdict no longer needs.
    """

    steps: int = 20
    restarts: int = 5
    images: int = 100
    streamed_images: int = 200
    landscape_images: int = 30
    neighbors: int = 20
    apgd_steps: int = 100
    queries: int = 1000
    noise_draws: int = 2000
    noise_images: int = 5
    spsa_steps: int = 20
    spsa_draws: int = 32
    spsa_images: int = 10
    planted_images: int = 10
    long_steps: int = 100
    everything: bool = False

    def __post_init__(self) -> None:
        small = {name: value for name, value in asdict(self).items() if value < 1 and value is not False}
        if small or self.queries < 2:
            raise InputError("a budget of at least 1 each, and 2 queries", small or {"queries": 1}, "write Budget()")

    def at_least(self, other: "Budget") -> "Budget":
        """Return the larger of two budgets, number by number.

        Args:
            other: The other budget.

        Example:
            >>> Budget(steps=5, queries=2000).at_least(Budget()).steps
            20
        """
        return Budget(**{name: max(value, asdict(other)[name]) for name, value in asdict(self).items()})


THOROUGH = Budget(
    everything=True, landscape_images=50, neighbors=100, noise_draws=10_000, spsa_images=20, planted_images=20
)
"""The budget of a thorough audit: all tests, with larger searches."""
