"""Check a built site: every link and picture has an existing file and anchor, and nothing is loaded from the network.

python docs/links.py site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that a browser loads by itself: their files must be in the site. Other links may lead to the network.
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    """The targets of a page (each with whether the browser loads it) and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[tuple[str, bool]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        for name in ("href", "src"):
            if name in values and values.get("rel") not in ("canonical", "edit"):
                self.targets.append((values[name], (tag, name) in LOADED))


def broken(site: Path) -> list[str]:
    """One line for every target that does not exist."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for target, loaded in page.targets:
            parts = urlsplit(target)
            where = f"{path.relative_to(site)}: {target}"
            if parts.scheme in ("http", "https") or parts.netloc:
                found += [f"{where} is loaded from the network"] if loaded else []
                continue
            if parts.scheme:  # data:, mailto:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            if path.name == "404.html" and not file.exists():
                file = site / unquote(parts.path).lstrip("/")  # root links, since it is shown at any URL
            if not file.exists():
                found.append(f"{where} is not there")
            elif parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].anchors:
                found.append(f"{where} has no such anchor")
    return found


def main(arguments: list[str]) -> int:
    """Print the broken links; return 1 if there are any."""
    site = Path(arguments[0]).resolve()
    lines = broken(site)
    print("\n".join(lines) or f"{len([*site.rglob('*.html')])} pages: no broken links")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
