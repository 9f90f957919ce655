"""HTML templates of the page: everything that enters them from outside is escaped."""

from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from lowcurve.report.palette import DASHES, SHAPES


def render(name: str, **values: object) -> Markup:
    """Render a template to a piece of HTML.

    Args:
        name: File in the folder templates.
        **values: Names that the template uses. Text is escaped, a piece of HTML is inserted as it is.
    """
    return Markup(_environment().get_template(name).render(**values))


def read(name: str) -> str:
    """Return a file of the package's folder report, such as the style sheet."""
    return (files("lowcurve.report") / name).read_text("utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: read(f"templates/{name}")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals |= {"dashes": DASHES, "shapes": SHAPES}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment
