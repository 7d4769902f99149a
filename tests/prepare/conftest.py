"""A small raw VSPW folder to break, and one call that prepares it."""

from tests.raw_dataset import outputs, run_prepare, vspw  # noqa: F401  fixtures
