"""What the documentation says: commands run, links lead somewhere, the Makefile has the targets that are named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)
_BLOCK = re.compile(r"^ *```console runnable\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMANDS = [(page, block) for page in PAGES for block in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def name(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else ""


@pytest.fixture
def workplace(tmp_path: Path, vtest_video: Path) -> Path:
    """A folder like a fresh clone, with a free port for the REST API and nothing that is shared with another run."""
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    changed = text.replace("port: 8080", "port: 0")
    assert changed != text
    (tmp_path / "config.yaml").write_text(changed, encoding="utf-8")
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / vtest_video.name).symlink_to(vtest_video)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), COMMANDS, ids=name)
def test_commands_marked_runnable_run(page: Path, block: str, workplace: Path) -> None:
    commands = [line.strip()[2:] for line in block.splitlines() if line.strip().startswith("$ ")]
    assert commands, f"{page}: a runnable block without a command"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            check=False,
            cwd=workplace,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, f"{page.name}: {command}\n{done.stdout}{done.stderr}"


def test_every_verb_is_shown_by_a_command_that_runs() -> None:
    text = "".join(block for _, block in COMMANDS)
    usage = subprocess.run(
        [sys.executable, "-m", "edge_agent.cli", "--help"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    verbs = set(re.findall(r"^    ([a-z]+)(?:  |$)", usage, re.MULTILINE))
    assert verbs >= {"run", "check", "schema", "replay", "calibrate"}
    assert {verb for verb in verbs if f"edge-agent {verb}" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    broken = [link for link in links if not (page.parent / link.split("#")[0]).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ |  )(?:[A-Z_]+=\S+ )*make ([a-z-]+)", page.read_text(encoding="utf-8")))
    assert named <= targets


def test_the_map_of_the_modules_is_complete() -> None:
    """CONTRIBUTING.md names every module and folder of the package."""
    there = {
        path.stem for path in (ROOT / "edge_agent").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    named = set(re.findall(r"`([a-z_]+)/?`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert there - {"__init__"} <= named


def test_configuration_shown_in_the_documentation_uses_keys_that_exist() -> None:
    from edge_agent.config import json_schema

    schema = json_schema()
    keys = {key for section in [schema, *schema["$defs"].values()] for key in section.get("properties", {})}
    for page in PAGES:
        for block in re.findall(
            r"^ *```yaml\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            assert set(re.findall(r"^ *(?:- )?\{?([a-z_]+):", block, re.MULTILINE)) <= keys, page


def test_the_problems_that_are_shown_are_the_ones_that_are_told(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configure.md").read_text(encoding="utf-8")
    shown = re.findall(r"^edge-agent: config.yaml.*$", page, re.MULTILINE)
    text = (ROOT / "config.yaml").read_text(encoding="utf-8").replace("fps: 7 ", "fps: -7 ")
    (tmp_path / "config.yaml").write_text(re.sub(r"^  host: localhost", "  hots: localhost", text, flags=re.M), "utf-8")
    command = [sys.executable, "-m", "edge_agent.cli", "check", "-c", "config.yaml"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2

    def words(line: str) -> str:
        return re.sub(r":\d+:\d+:", ":", line).removesuffix(" ...")

    said = [words(line) for line in done.stderr.splitlines()]
    assert len(shown) == len(said) == 2
    assert all(line.startswith(words(promised)) for line, promised in zip(said, shown, strict=True))


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_make_without_a_target_lists_the_targets() -> None:
    done = subprocess.run(["make"], check=True, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert {"run", "test", "check", "bench"} <= set(re.findall(r"make ([a-z-]+)", done.stdout))


@pytest.mark.parametrize("script", sorted([*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]), ids=name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)


def test_the_video_script_says_what_else_to_do_when_there_is_no_apt(tmp_path: Path) -> None:
    """With nothing but a shell and coreutils on the path."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "cat", "dirname", "env"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    script = ROOT / "scripts" / "fetch_pedestrian_video.sh"
    done = subprocess.run(
        [str(script), str(tmp_path / "vtest.avi")],
        check=False,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "make run SOURCE=" in done.stderr


def test_the_tests_that_the_table_of_faults_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")))
    defined = set(
        re.findall(
            r"^def (test_\w+)", "".join(file.read_text() for file in (ROOT / "tests").glob("*.py")), re.MULTILINE
        )
    )
    assert named and named - defined == set()
