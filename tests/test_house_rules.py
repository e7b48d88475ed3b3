"""Rules that hold for every file of the packages, and the names that users may rely on."""

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster

ROOT = Path(__file__).parent.parent
PACKAGES = ("actors", "cluster", "serve_app")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 350

# Recipes run as programs and report to whoever started them.
MAY_PRINT = {"cluster/cli.py", "cluster/demo/train.py"}

FORBIDDEN_CALLS = {
    "pickle.load": "loads code",
    "pickle.loads": "loads code",
    "os.system": "runs a shell",
    "eval": "runs text as code",
    "exec": "runs text as code",
}

PUBLIC_NAMES = {
    "cluster": ["ClusterConfig", "ClusterModel"],
    "cluster.config": ["ClusterConfig", "PoolConfig", "LimitsConfig"],
    "cluster.cli": ["main"],
    "serve_app.app": ["build_app"],
    "actors.ray_actors": ["RouterActor", "TargetActor", "DraftActor"],
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file with the dotted name of what is called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported_modules(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at its top or later."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            modules.add(node.module or "")
    return modules


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_documented_and_safe(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= MAX_LINES, f"more than {MAX_LINES} lines: one noun a file"
    assert ast.get_docstring(tree), "a docstring says what the module is for"
    for function, call in calls(path):
        assert function not in FORBIDDEN_CALLS, f"{function}: {FORBIDDEN_CALLS[function]}"
        assert function != "print" or name_of(path) in MAY_PRINT, "log, do not print"
        flags = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        assert function != "torch.load" or flags.get("weights_only") is True, "pickles may hold code"
        for keyword in call.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            assert not (keyword.arg == "trust_remote_code" and value is not False), "code from the hub stays off"
            assert not (keyword.arg == "shell" and value is True), "no shells"


@pytest.mark.parametrize("path", sorted((ROOT / "actors/engine").glob("*.py")), ids=name_of)
def test_the_engine_knows_of_nothing_above_it(path: Path) -> None:
    above = {
        module
        for module in imported_modules(path)
        if module.split(".")[0] in {"ray", "litestar", "cluster", "serve_app"}
        or (module.split(".")[0] == "actors" and not module.startswith("actors.engine"))
    }
    assert not above


@pytest.mark.parametrize("path", [path for path in FILES if "serve_app" not in path.parts], ids=name_of)
def test_ray_serve_is_behind_the_door(path: Path) -> None:
    tree = ast.parse(path.read_text())
    from_ray = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "ray"
        for alias in node.names
    }
    assert "serve" not in from_ray
    assert not {module for module in imported_modules(path) if module.startswith("ray.serve")}


def test_the_parts_that_start_quickly_know_no_torch() -> None:
    light = [ROOT / "cluster" / f"{name}.py" for name in ("__init__", "cli", "config", "generation", "defaults")]
    light += [ROOT / "actors" / f"{name}.py" for name in ("messages", "link", "config", "status", "router")]
    for path in light:
        assert not {module.split(".")[0] for module in imported_modules(path)} & {"torch", "transformers"}, path


@pytest.mark.parametrize(("module", "names"), PUBLIC_NAMES.items())
def test_public_names_exist(module: str, names: list[str]) -> None:
    for name in names:
        assert hasattr(importlib.import_module(module), name)


def test_the_package_says_what_it_exports() -> None:
    assert set(cluster.__all__) == {"ClusterConfig", "ClusterModel", "__version__"}
    assert set(cluster.__all__) <= set(dir(cluster))
    with pytest.raises(AttributeError, match="ClusterModle"):
        cluster.ClusterModle  # noqa: B018


def test_generate_takes_what_transformers_takes_and_a_seed() -> None:
    from transformers import GenerationMixin

    ours = inspect.signature(cluster.ClusterModel.generate).parameters
    theirs = inspect.signature(GenerationMixin.generate).parameters
    assert list(theirs) == [name for name in ours if name != "seed"]
    assert "seed" in ours
    for name in ("from_pretrained", "from_config", "connect", "stats", "close", "__enter__", "__exit__"):
        assert callable(getattr(cluster.ClusterModel, name))


def test_packages_are_listed_for_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {name_of(path.parent).replace("/", ".") for path in FILES}
    assert listed == found
    assert all((ROOT / package.replace(".", "/") / "__init__.py").is_file() for package in listed)
