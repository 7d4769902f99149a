"""Fixtures every test folder shares: where the golden numbers and the small real data are."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from benchmarks.shared import shared_folder

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = shared_folder()

# Property tests try the same inputs in every run of the suite; `make fuzz` tries FUZZ_EXAMPLES random ones.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
settings.register_profile(
    "suite", max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "fuzz", max_examples=EXAMPLES or 1, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("fuzz" if EXAMPLES else "suite")

# Snakemake needs Python 3.11; the library is tested without it on 3.10.
collect_ignore = [] if importlib.util.find_spec("snakemake") else ["workflow"]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives parallel workers whole files; one has, first, the tests of the finished run, and one all large tests."""

    def is_shared(item: pytest.Item) -> bool:
        return "finished" in getattr(item, "fixturenames", ())

    for item in items:
        group = "finished" if is_shared(item) else "large" if item.get_closest_marker("large") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    # Long ones before the others, so that no worker ends alone with one.
    items.sort(key=lambda item: 0 if is_shared(item) else 1 if item.get_closest_marker("slow") else 2)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` next to the checkout; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder of golden numbers and small real data: {SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The set of golden cases: $VSS_GOLDEN, by default golden/dev in the shared folder."""
    folder = Path(os.environ.get("VSS_GOLDEN", SHARED / "golden" / "dev"))
    if not folder.is_absolute():
        folder = REPOSITORY / folder
    if not folder.is_dir():
        pytest.skip(f"needs the golden numbers: {folder} is absent (set VSS_GOLDEN)")
    return folder


@pytest.fixture(scope="session")
def golden_tables(shared_dir: Path) -> Path:
    """The folder with the golden tables `keys`, `optim` and `labels`."""
    return shared_dir / "golden"


@pytest.fixture(scope="session")
def real_data(shared_dir: Path) -> Path:
    """The small real data."""
    folder = shared_dir / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the small real data: {folder} is absent")
    return folder
