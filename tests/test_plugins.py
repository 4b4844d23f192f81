"""Other packages add blocks and recipes through an entry point; a broken one is named and breaks nothing else."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from . import fresh

BLOCK = """
    import perceiver_kit as kit

    @kit.register("inputs")
    class {name}(kit.inputs.Features):
        pass
"""
PLUGINS = {
    # What each entry point's module says; they are imported in alphabetical order.
    "a_breaks_after_registering": BLOCK.format(name="Half") + "    raise RuntimeError('no such device')",
    "b_good": BLOCK.format(name="Spectrum"),
    "c_takes_a_name_of_the_kit": BLOCK.format(name="Early") + BLOCK.format(name="Patches"),
    "d_takes_a_name_of_another": BLOCK.format(name="Spectrum"),
    "e_looks_names_up": "    import perceiver_kit as kit\n    assert 'Spectrum' in kit.list('inputs')"
    + BLOCK.format(name="Late"),
    "f_leaves": "    import sys\n    import a_package_that_is_not_installed",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package that offers all of these, as pip installs one."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in PLUGINS.items():
        (folder / f"{name}.py").write_text(dedent(text))
    metadata = folder / "others-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(["[perceiver_kit]", *(f"{n} = {n}" for n in PLUGINS)]))
    return folder


def run(site: Path, *lines: str) -> tuple[str, str]:
    """What lines print in a Python that finds the package: standard output, standard error."""
    status, out, errors = fresh.run("\n".join(["import sys, perceiver_kit as kit", *lines]), path=[site])
    assert status == 0, errors
    return out, errors


def test_importing_the_kit_imports_no_plugin(site: Path) -> None:
    out, errors = run(site, f"print([name for name in sys.modules if name in {[*PLUGINS]}])")
    assert out.strip() == "[]"
    assert errors == ""


def test_broken_plugins_register_nothing(site: Path) -> None:
    out, _ = run(
        site,
        "names = kit.list('inputs')",
        "print([name for name in ('Half', 'Spectrum', 'Early', 'Late') if name in names])",
        "print(kit.registry.find('inputs', 'Patches').__module__)",
        "model = kit.build({'perceiver_kit': 1, 'model': {'block': 'inputs.Spectrum', 'arguments': {'channels': 3}}})",
        "print(type(model).__module__, kit.spec(model)['model']['block'])",
    )
    assert out.splitlines() == ["['Spectrum', 'Late']", "perceiver_kit.inputs.image", "b_good inputs.Spectrum"]


def test_each_broken_plugin_is_reported_once_with_its_error(site: Path) -> None:
    _, errors = run(site, "kit.list('inputs'); kit.list('recipes'); kit.build('masked_lm', preset='tiny')")
    said = [line for line in errors.splitlines() if "left out" in line]
    assert len(said) == 4
    assert (
        "a_breaks_after_registering (a_breaks_after_registering) is left out: RuntimeError: no such device" in said[0]
    )
    assert "'Patches' is taken by perceiver_kit.inputs.image.Patches" in said[1]
    assert "'Spectrum' is taken by b_good.Spectrum" in said[2]
    assert "ModuleNotFoundError: No module named 'a_package_that_is_not_installed'" in said[3]


def test_unknown_names_list_failed_plugins(site: Path) -> None:
    out, _ = run(
        site,
        "try: kit.registry.find('inputs', 'Half')",
        "except kit.UnknownName as error: print(error)",
    )
    assert "no input block 'Half'" in out
    assert "a_breaks_after_registering (a_breaks_after_registering) failed: RuntimeError: no such device" in out


def test_a_name_of_the_kit_is_taken_before_the_kit_was_used() -> None:
    """Importing the kit imports no blocks: registering one does."""
    code = """
        from perceiver_kit.block import Block
        from perceiver_kit.registry import register

        @register("inputs", "Patches")
        class Mine(Block):
            pass
    """
    status, _, err = fresh.run(code)
    assert status != 0 and "inputs 'Patches' is taken by perceiver_kit.inputs" in err
