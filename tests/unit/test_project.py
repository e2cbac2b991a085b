"""What the repository promises about itself: packaging, set-up commands, continuous integration."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def shell_blocks(text: str) -> list[str]:
    return [block.strip() for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)]


@pytest.fixture(scope="session")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "sample_data/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps",
         "--no-index", "--wheel-dir", str(out), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_claims_only_our_names(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"trajfile", "trajfile_cli"}


def test_the_wheel_ships_schemas_types_and_every_module(wheel_names: list[str]) -> None:
    assert "trajfile/schemas/manifest.schema.json" in wheel_names
    assert "trajfile/schemas/report.schema.json" in wheel_names
    assert "trajfile/schemas/metrics.md" in wheel_names
    assert "trajfile/py.typed" in wheel_names
    for folder, package in (("trajfile", "trajfile"), ("cli", "trajfile_cli")):
        for path in (ROOT / folder).rglob("*.py"):
            inside = f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
            assert inside in wheel_names, f"{inside} is missing: list its package in pyproject.toml"


def test_the_wheel_holds_no_test_data(wheel_names: list[str]) -> None:
    assert not [name for name in wheel_names if "vectors" in name or name.endswith(".h5")]


def test_readme_has_exactly_two_setup_commands() -> None:
    setup = [block for block in shell_blocks(README) if "pip install" in block]
    assert len(setup) == 2
    main, tests = setup
    assert "\n" not in main
    assert "\n" not in tests
    assert "trajfile analyze sample_data/" in main
    assert tests.endswith("pytest")
    assert all("-c constraints.txt" in command for command in setup)


def test_ci_runs_the_readme_test_command() -> None:
    script = (ROOT / ".ci/run").read_text()
    picked = re.search(r"test_command=\$\((awk .*)\)\n", script)
    assert picked is not None
    found = subprocess.run(
        ["bash", "-c", picked.group(1)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found in shell_blocks(README)
    assert found.endswith("pytest")


def test_constraints_pin_every_direct_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"].values()
    for requirement in [*PROJECT["project"]["dependencies"], *(r for e in extras for r in e)]:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement).group().lower().replace("_", "-")
        assert name in pins | {"trajfile", "setuptools"}, f"{name} is not pinned"


def test_top_level_holds_what_it_should() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    tops = {name.split("/")[0] for name in listed if not name.startswith(".")}
    assert tops == {
        "pyproject.toml", "constraints.txt", "README.md", "CHANGELOG.md", "LICENSE",
        "trajfile", "cli", "spec", "tests", "sample_data",
    }  # fmt: skip
