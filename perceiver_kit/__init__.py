"""A composable Perceiver IO research kit: any inputs into a fixed array of latents, any outputs from it.

The public names are those of ``public.py``. They are imported when the first of them is used (PEP 562): torch takes
seconds, and ``import perceiver_kit`` does not.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .public import *  # noqa: F403
else:  # hidden from type checkers, which would otherwise accept any name

    def __getattr__(name):
        """Called by Python for a name that this module lacks: import the public names into it, and look again."""
        public = import_module(".public", __name__)
        names = vars(public).get("__all__", ())  # () while public.py is being imported, which looks for modules here
        for each in names:
            globals().setdefault(each, getattr(public, each))  # what a user has put in its place stays
        if names:
            globals()["__all__"] = names
        if name not in globals():
            raise AttributeError(f"perceiver_kit has no {name!r}", name=name, obj=sys.modules[__name__])
        return globals()[name]

    def __dir__():
        return sorted({*globals(), *import_module(".public", __name__).__all__})
