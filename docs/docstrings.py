"""Prepare the docstrings for the site: `Example:` becomes code, as `Examples:` does, and "<g, v>" stays text."""

import re
from typing import Any

import griffe

TAG = re.compile(r"<(?=[A-Za-z/!])")
"""A sign that Markdown would take for the start of an HTML tag."""


class ExampleSections(griffe.Extension):
    """Change each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = prepared(obj.docstring.value)


def prepared(text: str) -> str:
    """Return a docstring with the heading `Examples:` and without HTML tags outside code.

    >>> prepared("The product <g, v>, `<b>`.\\n\\nExample:\\n    >>> f(<a>)")
    'The product &lt;g, v>, `<b>`.\\n\\nExamples:\\n    >>> f(<a>)'
    """
    head, mark, examples = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE).partition("Examples:\n")
    parts = re.split(r"(`[^`]*`)", head)
    return "".join(part if part.startswith("`") else TAG.sub("&lt;", part) for part in parts) + mark + examples
