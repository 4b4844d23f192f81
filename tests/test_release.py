"""The wheel and the sdist hold the package whole and nothing else; one version everywhere; workflows call make."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = f"perceiver_kit-{PROJECT['version']}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel made from it, as by ``make dist``."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def package() -> dict[str, bytes]:
    """Every file of the package, by path."""
    files = [path for path in (ROOT / "perceiver_kit").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}


def test_the_wheel_holds_the_package_byte_for_byte(built: Path) -> None:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        found = {name: wheel.read(name) for name in wheel.namelist()}
    about = {name for name in found if name.startswith(f"{NAME}.dist-info/")}
    assert {name: content for name, content in found.items() if name not in about} == package()
    assert "perceiver_kit/py.typed" in found
    assert f"{NAME}.dist-info/licenses/LICENSE" in about
    assert b"perceiver-kit = perceiver_kit.cli:main" in found[f"{NAME}.dist-info/entry_points.txt"]
    metadata = found[f"{NAME}.dist-info/METADATA"].decode()
    assert {f"Provides-Extra: {extra}" for extra in PROJECT["optional-dependencies"]} <= set(metadata.splitlines())


def test_the_sdist_holds_the_package_and_what_describes_it(built: Path) -> None:
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        found = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    beside = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert found == beside | set(package())


def test_one_version_everywhere() -> None:
    assert version("perceiver-kit") == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.*?)\]", changes, re.MULTILINE)[0] == PROJECT["version"]


def test_workflows_call_commands_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        [job] = yaml.safe_load(text)["jobs"].values()
        assert "make ${{ matrix.target }}" in text
        called |= {
            *job["strategy"]["matrix"]["target"],
            *(row["target"] for row in job["strategy"]["matrix"]["include"]),
        }
    assert {"check", "test", "docs", "dist"} <= called <= targets
