"""Fence the doctests of docstrings, since Markdown reads ``>>>`` as a quotation."""

import re

import griffe

# A prompt and the lines after it, up to the blank line that ends an example.
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class FenceExamples(griffe.Extension):
    """Puts every doctest of a docstring into a code fence."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
