"""The shape of the whole: which package may import which, what an import must not load."""

import subprocess
import sys
from pathlib import Path

import pytest
from grimp import build_graph
from importlinter.api import read_configuration
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "nctool": ROOT / "toolchain" / "nctool",
    "nctool_models": ROOT / "models" / "nctool_models",
    "nctool_deploy": ROOT / "deploy" / "nctool_deploy",
}
HEAVY = {"torch", "torchvision", "lava", "scipy", "matplotlib", "altair", "vl_convert"}


# --- imports ------------------------------------------------------------


def test_imports_keep_their_direction(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_every_module_of_nctool_has_a_layer(monkeypatch):
    monkeypatch.chdir(ROOT)
    contracts = read_configuration("pyproject.toml")["contracts_options"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    placed = {module.strip() for layer in layers for module in layer.split("|")}
    modules = build_graph("nctool", cache_dir=None).find_children("nctool")
    assert modules == {module for module in placed if module.startswith("nctool.")}


def test_lava_is_imported_by_one_package_only():
    graph = build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    importers = graph.find_modules_that_directly_import("lava")
    assert {module for module in importers if not module.startswith("nctool_deploy.lava.runner")} == set()
    assert importers


def heavy_modules_after(code: str) -> set[str]:
    """Run `code` in a fresh interpreter and name the heavy packages that it loaded."""
    report = f"import sys; print('loaded:', *({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    run = subprocess.run(
        [sys.executable, "-c", f"import atexit\natexit.register(lambda: exec({report!r}))\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import nctool",
        "from nctool.commands.application import main; import sys; sys.argv = ['nctool', '--help']; main()",
        "from nctool.commands.application import main; import sys; sys.argv = ['nctool', 'export', '--help']; main()",
        "import nctool.ir.network, nctool.recipe.schema",
        "import nctool.reference.simulate",
        "import nctool_deploy",
        "import nctool_deploy.targets.target, nctool_deploy.lowering, nctool_deploy.netx",
    ],
)
def test_what_needs_no_heavy_library_loads_none(code):
    assert heavy_modules_after(code) == set()


def test_a_heavy_library_that_is_loaded_is_seen():
    assert "torch" in heavy_modules_after("import nctool, torch")


def test_every_slow_test_is_there() -> None:
    """A test that was renamed would come back into `make quick`, or its line would stay."""
    lines = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert listed == sorted(set(listed))
    for line in listed:
        file, _, function = line.partition("::")
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8") or not function, line
