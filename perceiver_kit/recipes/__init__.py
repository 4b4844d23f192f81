"""Published models as functions, one module each. Every module here whose name has no underscore in front registers."""

from importlib import import_module
from pkgutil import iter_modules

for _name in [module.name for module in iter_modules(__path__) if not module.name.startswith("_")]:
    globals()[_name] = getattr(import_module(f"{__name__}.{_name}"), _name)
