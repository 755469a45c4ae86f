"""Which version of the program this is."""

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """As installed; "unknown" where it runs from a folder."""
    try:
        return version("opd-studio")
    except PackageNotFoundError:
        return "unknown"
