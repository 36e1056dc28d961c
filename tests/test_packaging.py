"""The wheel: what it holds, that it is built the same twice, and that it works from any folder."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import runs

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
