"""The wheel: what it holds, that it is built the same twice, and that it works from any folder. The Dockerfile."""

import fnmatch
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import runs
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import gan

hatchling = pytest.importorskip("hatchling.builders.wheel")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheel"))


def build(folder):
    builder = hatchling.WheelBuilder(str(runs.ROOT))
    (path,) = builder.build(directory=str(folder), versions=["standard"])
    return Path(path)


def test_the_wheel_has_every_module_config_and_experiment_and_nothing_else(wheel):
    folders = ("gan", "configs", "experiments")
    expected = {str(path.relative_to(runs.ROOT)) for folder in folders for path in (runs.ROOT / folder).rglob("*.py")}
    names = set(zipfile.ZipFile(wheel).namelist())
    python = {name for name in names if name.endswith(".py")}
    assert python == expected
    assert f"flaxgan-{gan.__version__}.dist-info/METADATA" in names


def test_wheel_and_source_archive_tell_type_checkers_that_the_package_has_types(wheel, tmp_path):
    assert "gan/py.typed" in zipfile.ZipFile(wheel).namelist()
    sdist = pytest.importorskip("hatchling.builders.sdist")
    (path,) = sdist.SdistBuilder(str(runs.ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        assert f"flaxgan-{gan.__version__}/gan/py.typed" in archive.getnames()


def test_the_wheel_is_built_the_same_twice(wheel, tmp_path):
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_a_config_is_found_by_its_name_from_any_folder(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    # The libraries of this environment, and the package from the wheel alone.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    program = (
        f"import sys; sys.path = {[str(site)]} + [path for path in sys.path if path] + {libraries};"
        "import gan; from gan.config import loading;"
        "print(gan.__file__, loading.load('dcgan:mnist').data.name, loading.load('toy').data.name)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=elsewhere, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [str(site / "gan" / "__init__.py"), "mnist", "ring8"]


def test_versions_agree():
    project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "gan/__init__.py"
    command = [sys.executable, "-m", "gan.main", "--version"]
    shown = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == gan.__version__


def dockerfile():
    """The instructions of the Dockerfile: pairs of a name in capitals and its arguments, lines joined."""
    lines = (runs.ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    lines = [line.split(None, 1) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [(name.upper(), arguments) for name, arguments in lines]


def arguments_of(instruction):
    return [arguments for name, arguments in dockerfile() if name == instruction]


def test_the_dockerfile_copies_what_exists_and_is_not_ignored():
    sources = [source for arguments in arguments_of("COPY") for source in arguments.split()[:-1]]
    ignored = (runs.ROOT / ".dockerignore").read_text().split()
    assert {source for source in sources if not (runs.ROOT / source).exists()} == set()
    assert {source for source in sources if any(fnmatch.fnmatch(source, pattern) for pattern in ignored)} == set()
    # What pip builds the package of: without one of these, the build ends with an error, or with a wheel that lacks it.
    project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    needed |= {file for arguments in arguments_of("RUN") for file in re.findall(r"--constraint[ =](\S+)", arguments)}
    assert needed <= set(sources)


def test_the_dockerfile_has_a_python_and_extras_of_the_project():
    project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())["project"]
    (version,) = [re.fullmatch(r"python:(\d+\.\d+)-slim", image).group(1) for image in arguments_of("FROM")]
    assert version in SpecifierSet(project["requires-python"])
    assert version in pythons(project)
    devcontainer = json.loads((runs.ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (runs.ROOT / ".devcontainer" / devcontainer["build"]["dockerfile"]).resolve() == runs.ROOT / "Dockerfile"
    defaults = dict(argument.split("=") for argument in arguments_of("ARG"))
    assert {defaults["EXTRAS"], devcontainer["build"]["args"]["EXTRAS"]} <= set(project["optional-dependencies"])
    assert set(devcontainer["build"]["args"]) <= set(defaults)


def test_the_versions_of_python_are_those_that_the_project_requires_and_that_are_tested():
    project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())
    named = pythons(project["project"])
    assert named == [version for version in named if version in SpecifierSet(project["project"]["requires-python"])]
    assert project["project"]["requires-python"] == f">={named[0]}"
    assert project["tool"]["mypy"]["python_version"] == named[0]
    workflow = (runs.ROOT / ".github" / "workflows" / "checks.yml").read_text()
    assert f'python: ["{named[0]}", "{named[-1]}"]' in workflow
    assert f"Python {named[0]} to {named[-1]}" in (runs.ROOT / "docs" / "index.md").read_text()


def pythons(project):
    start = "Programming Language :: Python :: "
    return [line.removeprefix(start) for line in project["classifiers"] if line.startswith(start)]


def test_the_constraints_are_versions_that_the_project_allows():
    project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (runs.ROOT / "constraints.txt").read_text().split() if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    requirements = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    requirements = {item.name.lower().replace("_", "-"): item.specifier for item in map(Requirement, requirements)}
    assert {name for name in requirements if name not in pins} == set()
    assert {name for name, allowed in requirements.items() if pins[name] not in allowed} == set()
