import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml
from click.testing import CliRunner

from cluster import __version__
from cluster.cli import cli
from cluster.config import ClusterConfig


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_version_and_help() -> None:
    runner = CliRunner()
    assert runner.invoke(cli, ["--version"], prog_name="slipstream").output == f"slipstream {__version__}\n"
    output = runner.invoke(cli, ["--help"]).output
    for command in ("serve", "generate", "status", "config"):
        assert command in output
        assert runner.invoke(cli, [command, "--help"]).exit_code == 0


def test_schema_accepts_the_example_and_refuses_typing_errors() -> None:
    runner = CliRunner()
    schema = json.loads(runner.invoke(cli, ["config"]).output)
    example = yaml.safe_load(runner.invoke(cli, ["config", "--example"]).output)
    jsonschema.validate(example, schema)
    assert ClusterConfig.from_dict(example) == ClusterConfig.demo()
    example["target"]["worker"]["model"]["quantisation"] = "nf4"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example, schema)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["serve", "--port", "70000"], 2, "--port"),
        (["serve", "--quantization", "q4"], 2, "--quantization"),
        (["generate"], 2, "PROMPT"),
        (["nonsense"], 2, "nonsense"),
        (["audit", "--draft-lengths", "1,x"], 2, "--draft-lengths"),
        (["audit", "--temperature", "0"], 2, "--temperature"),
        (["audit", "--prompts", "missing.txt"], 1, "no file at missing.txt"),
        (["bench", "serve", "--concurrency", "0,4"], 2, "--concurrency"),
        (["bench", "serve", "--url", "http://127.0.0.1:9"], 1, "no server"),
        (["bench", "suite", "nonsense"], 1, "no suite named nonsense"),
        (["serve", "--config", "missing.yaml"], 1, "missing.yaml"),
        (["serve", "--config", "c.yaml", "--dtype", "float32"], 2, "dtype"),
        (["serve", "--draft-replicas", "1", "--num-gpus", "0", "no/model"], 1, "assistant_model"),
    ],
)
def test_errors_are_short_and_have_an_exit_code(arguments: Sequence[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    if code == 1:
        assert len(result.stderr.splitlines()) == 1


def test_a_config_file_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(msgspec.to_builtins(ClusterConfig.demo())))
    result = run("serve", "other/model", "--config", str(file))
    assert result.returncode == 2
    assert "leave out model" in result.stderr


def test_importing_the_package_and_the_command_is_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import cluster, cluster.cli; cluster.ClusterConfig.demo();"
        "print(time.perf_counter() - start, sorted({'torch', 'transformers', 'ray', 'numpy'} & set(sys.modules)))"
    )
    results = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(" ", 1)
        for _ in range(3)
    ]
    assert {modules.strip() for _, modules in results} == {"[]"}
    assert min(float(seconds) for seconds, _ in results) < 0.3
