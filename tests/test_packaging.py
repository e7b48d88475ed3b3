"""The wheel: built from this tree, looked into, and installed next to nothing but its dependencies."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import cluster

ROOT = Path(__file__).parent.parent
PACKAGES = ("actors", "cluster", "serve_app")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left, and without the network."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", *command], check=True, timeout=240, env=os.environ | {"PIP_NO_INDEX": "1"})
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def source_files(*patterns: str) -> set[str]:
    found = {path for folder in PACKAGES for pattern in patterns for path in (ROOT / folder).rglob(pattern)}
    return {path.relative_to(ROOT).as_posix() for path in found if path.is_file()}


def test_every_module_is_in_the_wheel(names: set[str]) -> None:
    modules = source_files("*.py", "py.typed")
    assert modules
    assert modules <= names, sorted(modules - names)


def test_models_and_pages_are_in_the_wheel(names: set[str]) -> None:
    data = source_files("*.safetensors", "*.json", "*.jinja", "*.html", "*.css", "*.js", "*.svg")
    data = {name for name in data if name.startswith(("cluster/demo/target/", "cluster/demo/draft/", "serve_app/"))}
    assert any(name.endswith(".safetensors") for name in data)
    assert any(name.endswith(".html") for name in data)
    assert data <= names, sorted(data - names)


def test_nothing_else_is_in_the_wheel(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert tops == {*PACKAGES, f"slipstream-{cluster.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name]


def test_weights_are_small_enough_to_ship(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        weights = sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith(".safetensors"))
    assert 0 < weights <= 40 * 1024 * 1024


def test_an_installed_wheel_gives_a_working_command(wheel: Path, tmp_path: Path) -> None:
    """Dependencies are borrowed from this environment, through a path file that comes after the wheel's own."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["pip", f"--python={python}", "install", "--no-deps", "--no-index", "--quiet", "--ignore-installed"]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True, timeout=120)
    command = environment / "bin" / "slipstream"

    def run(*arguments: str) -> str:
        result = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert run("--version") == f"slipstream {cluster.__version__}\n"
    assert '"ClusterConfig"' in run("config")
    where = subprocess.run(
        [python, "-c", "import cluster, actors, serve_app; print(cluster.__file__, actors.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    assert where.count(str(environment)) == 2
