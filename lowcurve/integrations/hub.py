"""Networks on the Hugging Face Hub: safetensors, a description that rebuilds the network, and a card with its numbers."""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.integrations.cards import card_of_run
from lowcurve.libraries import base_class
from lowcurve.models import ConvertedNetwork, Factory, Source
from lowcurve.models.conversion import source_from_dict, source_to_dict
from lowcurve.network_calls import call, first_line
from lowcurve.store import Run
from lowcurve.store.weight_files import metadata_of

INSTALL = "'lowcurve[hf]'"
_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)
_Mixin: Any = base_class("PyTorchModelHubMixin", "huggingface_hub", install=INSTALL)


class HubNetwork(nn.Module, _Mixin):
    """A network that can be saved, pushed to the Hub and loaded from there; huggingface_hub's mixin does the work.

    `save_pretrained(folder)` writes model.safetensors, config.json (the description that rebuilds the network) and README.md
    (the model card). `push_to_hub("user/name")` uploads them, and `from_pretrained("user/name")` or of a folder loads them.
    The network maps pixels in [0, 1] to logits.

    Args:
        source: The network as `models.conversion.source_to_dict` describes it. `of` and `of_run` are simpler.

    Attributes:
        network: The network itself.
        card: Text of the model card.

    Raises:
        InputError: If huggingface_hub is missing, or if the description is none or names a function of other code.

    Example:
        >>> from lowcurve.models import Network
        >>> source = Network("mlp", shape=(2,), classes=2, mean=(0.5, 0.5), std=(0.2, 0.2), width=4)
        >>> HubNetwork.of(source, source.build(seed=0))(__import__("torch").zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, source: dict[str, Any]) -> None:
        super().__init__()
        try:
            made = source_from_dict(source)
        except (TypeError, KeyError, ValueError, AttributeError, AssertionError):
            made = None
        if made is None:
            raise InputError("the description of a network of lowcurve", sorted(source), "give one that it wrote")
        if _names_code(source) and not _TRUSTED.get():
            found = "one that a function of other code builds"
            hint = "write from_pretrained(..., trust_code=True) if you trust whoever wrote it"
            raise InputError("a network of lowcurve's own architectures", found, hint)
        self.network = made.build(seed=0)
        self.card = ""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits, shape (batch, classes)."""
        return call(self.network, pixels)

    @classmethod
    def of(cls, source: Source | ConvertedNetwork, model: nn.Module, *, card: str = "") -> Self:
        """Return a copy of a network, in eval mode.

        Args:
            source: What built the network: a `Network`, a `Factory`, or a `ConvertedNetwork` of one.
            model: The network with its weights.
            card: Text of the model card, such as `card_of_run` and `card_of_audit` make it.

        Raises:
            InputError: If the weights are not those of such a network.
        """
        with _trust(True):
            made = cls(json.loads(json.dumps(source_to_dict(source))))
        try:
            made.network.load_state_dict(model.state_dict())
        except RuntimeError as error:
            expected = f"weights of {type(source).__name__}"
            raise InputError(expected, first_line(error), "give what built the network") from error
        made.card = card
        return made.eval()

    @classmethod
    def of_run(cls, folder: str | Path, name: str) -> Self:
        """Return a network of a run, with a card of the run's results.

        Args:
            folder: Folder of a run, such as `lowcurve study --out` makes it.
            name: Name of the network, such as "CURE".

        Raises:
            InputError: If there is no such run or network.
        """
        run = Run.open(folder)
        if name not in run.networks():
            raise InputError(f"a network among {', '.join(run.networks())}", repr(name), "write one of these names")
        model = run.load_network(name)
        metadata = metadata_of(run.folder / "networks" / f"{name}.safetensors")
        source = source_from_dict({key: json.loads(value) for key, value in metadata.items() if key != "made by"})
        assert source is not None, "load_network refuses others"
        return cls.of(source, model, card=card_of_run(folder, name))

    @classmethod
    def from_pretrained(cls, name: str | Path, *, trust_code: bool = False, **options: Any) -> Self:
        """Load a network from the Hub or from a folder, in eval mode.

        Args:
            name: Name of the repository, such as "user/name", or a folder.
            trust_code: Let the description call a function of code that is installed here, by which the network was built.
            **options: As in huggingface_hub, such as revision, token, cache_dir and map_location.

        Raises:
            InputError: If there is nothing to load, or if it is no network that lowcurve saved.
        """
        hint = "give the name of a repository, or a folder, that HubNetwork.save_pretrained wrote"
        try:
            with _trust(trust_code), contextlib.redirect_stdout(io.StringIO()):
                loaded: Self = super().from_pretrained(name, **{"strict": True, **options})
        except InputError:
            raise
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"a network of lowcurve in {name}", first_line(error), hint) from error
        readme = Path(name) / "README.md"
        loaded.card = readme.read_text("utf-8").rpartition("---\n")[2].strip() if readme.is_file() else ""
        return loaded

    def generate_model_card(self, *_args: Any, **_options: Any) -> Any:
        """Return the card as huggingface_hub's `ModelCard`; its mixin calls this when it saves."""
        from huggingface_hub import ModelCard, ModelCardData

        tags = ["adversarial-robustness", "curvature", "lowcurve", "model_hub_mixin", "pytorch_model_hub_mixin"]
        data = ModelCardData(library_name="lowcurve", pipeline_tag="image-classification", tags=tags)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{self.card or '# A network of lowcurve'}\n")


@contextlib.contextmanager
def _trust(trusted: bool) -> Iterator[None]:
    token = _TRUSTED.set(trusted)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def _names_code(source: Mapping[str, Any]) -> bool:
    """Return whether a description names a function of other code, at any depth."""
    inner = source.get("Converted", {}).get("source")
    return Factory.__name__ in source or (isinstance(inner, Mapping) and _names_code(inner))
