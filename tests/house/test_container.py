"""The container file of a cluster's worker: it says what there is, and is built where there is an engine that can."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text()
BUILDING = 1200  # seconds


def engine() -> str:
    """Docker or Podman, whichever answers; skips where neither does."""
    for name in ("docker", "podman"):
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True, timeout=60).returncode:
            return name
    pytest.skip("neither docker nor podman answers here, so the container file is not built")


def test_the_file_names_what_there_is_and_no_host():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"onward\[([\w,]+)\]", TEXT)
    assert {*extras.split(",")} <= project["optional-dependencies"].keys()
    least = project["requires-python"].removeprefix(">=")
    (version,) = re.findall(r"^ARG PYTHON=(.*)$", TEXT, re.MULTILINE)
    assert [*map(int, version.split("."))] >= [*map(int, least.split("."))]
    assert f"Python :: {version}" in " ".join(project["classifiers"])
    (copied,) = re.findall(r"^COPY (.*) /tmp/onward/$", TEXT, re.MULTILINE)
    constraints, wheel = copied.split()
    assert (ROOT / constraints).is_file()
    assert Path(f"dist/onward-{project['version']}-py3-none-any.whl").match(wheel)
    assert re.findall(r"^FROM (.*)$", TEXT, re.MULTILINE) == [
        "python:${PYTHON}-slim"
    ]  # from where is the engine's business
    assert not re.search(r"https?://|index-url|trusted-host", TEXT)


@pytest.mark.timeout(BUILDING)
def test_a_worker_in_a_container_has_all_it_needs(tmp_path):
    chosen, image = engine(), "onward-worker-of-a-test"
    base = f"python:{re.findall('ARG PYTHON=(.*)', TEXT)[0]}-slim"
    if subprocess.run([chosen, "pull", base], capture_output=True).returncode:
        pytest.skip(f"{chosen} cannot get the image {base}, so the container file is not built")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path / "dist"]
    subprocess.run([*pip, ROOT], check=True, capture_output=True)
    for name in ("Containerfile", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    build = [chosen, "build", "--file", tmp_path / "Containerfile", "--tag", image, tmp_path]
    subprocess.run(build, check=True, timeout=BUILDING)
    try:
        code = "import ray, onward.cli.ray_worker, onward.cli.stream_worker; print(onward.__version__)"
        run = [chosen, "run", "--rm", "--network", "none", image, "python", "-c", code]
        said = subprocess.run(run, check=True, capture_output=True, text=True, timeout=BUILDING).stdout
        assert said.strip() == re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    finally:
        subprocess.run([chosen, "rmi", "--force", image], capture_output=True)
