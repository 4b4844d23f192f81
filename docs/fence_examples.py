"""Docstrings here hold examples as bare doctests; Markdown takes ``>>>`` for a quotation, so fence them for it."""

import re

import griffe

# A prompt and the lines after it, up to the blank line that ends an example.
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class FenceExamples(griffe.Extension):
    """Puts every example of a docstring into a code fence."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
