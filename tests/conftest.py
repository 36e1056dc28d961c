"""What holds for every test: runs on four virtual CPU devices, strict shapes, no writes outside a test's own folder."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from importlib import metadata

# Compilation is most of the time of these tests: no program is optimized, but for those that run for long, which ask
# for it (`compiler_options`), and fusions take XLA's older emitters, which compile in 0.6 of the time. Runs that are
# started as processes are compiled in the same way.
os.environ["GAN_TEST_XLA_FLAGS"] = "--xla_backend_optimization_level=0"
if metadata.version("jaxlib").startswith("0.10."):  # later ones have no older emitters, and end at an unknown flag
    os.environ["GAN_TEST_XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), os.environ["GAN_TEST_XLA_FLAGS"], "--xla_force_host_platform_device_count=8"]
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Two workers with threads of their own wait for each other: the kernel distance takes six times the processor's time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "GAN_TEST_FOLDER" not in os.environ:  # the first process; workers and the runs that tests start inherit it
    os.environ["GAN_TEST_FOLDER"] = tempfile.mkdtemp(prefix="gan-tests-")
    atexit.register(shutil.rmtree, os.environ["GAN_TEST_FOLDER"], ignore_errors=True)
os.environ["GAN_CACHE_DIR"] = f"{os.environ['GAN_TEST_FOLDER']}/data"
# The small runs are compiled over and over, here and in processes of their own.
os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{os.environ['GAN_TEST_FOLDER']}/programs"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

# [B, 1] - [B] is [B, B] without a word; here it raises.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def four_devices():
    """Runs use four of the eight devices; `meshes.on` gives a test others."""
    import meshes  # late: gan is imported when JAX is set up

    with meshes.on(4):
        yield


@pytest.fixture
def at_the_root(monkeypatch):
    """Configs are named from the repository's root."""
    monkeypatch.chdir(Path(__file__).parent.parent)


@pytest.fixture
def hide_package(monkeypatch):
    """A function after which one package looks as if it were not installed, to those who ask before importing it."""

    def hide(package):
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *given: None if name == package else found(name, *given)
        )

    return hide


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test may hold the name of a file that is not UTF-8, with which a worker of pytest-xdist would end."""
    report = yield
    if report.longrepr is not None and not isinstance(report.longrepr, tuple) and not _is_utf8(str(report.longrepr)):
        report.longrepr = _escaped(str(report.longrepr))
    report.sections = [(_escaped(name), _escaped(content)) for name, content in report.sections]
    return report


def pytest_runtest_teardown(item, nextitem):
    """Unloads the programs of a module's long tests, which share many of them.

    Python looks through all that is kept again and again. And each program has memory maps of its own: Linux gives a
    process 65,530, and XLA aborts where it has no more.
    """
    is_last = nextitem is None or nextitem.module is not item.module
    if item.get_closest_marker("slow") and (is_last or _memory_maps() > 20_000):
        jax.clear_caches()


def _memory_maps():
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # another system, which has no such limit
        return 0


def _is_utf8(text):
    return _escaped(text) == text


def _escaped(text):
    return text.encode(errors="backslashreplace").decode()


def pytest_runtest_setup(item):
    """Skips a test that reads a dataset which is not prepared, or compiles by a plugin which is not installed."""
    for name in ("mnist", "cifar10"):
        folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
        if item.get_closest_marker(f"needs_{name}") and not (folder / name).is_dir():
            pytest.skip(f"{name} is not prepared under {folder}: set TFDS_DATA_DIR to a folder where TFDS has it")
    if "needs_cuda_plugin" in item.keywords or "needs_tpu_plugin" in item.keywords:
        from experiments.plan.targets import plugin_is_installed  # late, as above

        for platform in ("cuda", "tpu"):
            if item.get_closest_marker(f"needs_{platform}_plugin") and not plugin_is_installed(platform):
                pytest.skip(f"JAX's plugin for {platform.upper()} is not installed: pip install '.[{platform}]'")
