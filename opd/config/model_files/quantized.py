"""Folders with quantized weights: which library reads them, and whether it is here.

Free of torch and of those libraries.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opd.config.model_files.weights import read_object
from opd.errors import ErrorKind, UserError
from opd.files import expanded

# By transformers' name of the method: modules that read it, and how to install them.
LIBRARIES = {
    "bitsandbytes": (("bitsandbytes",), "'opd-studio[quantized]'"),
    "compressed-tensors": (("compressed_tensors",), "'opd-studio[quantized]'"),
    "awq": (("gptqmodel",), "gptqmodel"),
    "gptq": (("gptqmodel", "optimum"), "gptqmodel optimum"),
    "auto-round": (("auto_round",), "auto-round"),
    "aqlm": (("aqlm",), "aqlm"),
    "hqq": (("hqq",), "hqq"),
    "quanto": (("optimum",), "optimum-quanto"),
    "torchao": (("torchao",), "torchao"),
    "eetq": (("kernels",), "kernels"),
    "quark": (("quark",), "amd-quark"),
}


def method_of(config: Mapping[str, Any]) -> str | None:
    """How a config.json says that its weights are quantized; None for whole ones."""
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping):
        return None
    bits = any(settings.get(f"load_in_{n}bit") for n in (4, 8))
    return str(settings.get("quant_method") or ("bitsandbytes" if bits else "unknown"))


def held_as(config: Mapping[str, Any]) -> str:
    """In which form quantized weights stay in memory: int4, int8, or none (made whole)."""
    if method_of(config) != "bitsandbytes":
        return "none"
    return "int4" if config["quantization_config"].get("load_in_4bit") else "int8"


def check_library(folder: Path, config: Mapping[str, Any], *, where: str) -> None:
    """Refuses quantized weights whose library is not installed, naming it."""
    method = method_of(config)
    modules, package = LIBRARIES.get(method or "", ((), ""))
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{folder} is quantized with {method}, which needs {' and '.join(missing)}: pip "
            f"install {package}",
            where=where,
            kind=ErrorKind.MISSING_EXTRA,
        )


def refuse_training_all(reference: str, *, where: str) -> None:
    """Refuses to train all weights of a local folder whose weights are quantized."""
    path = expanded(reference) / "config.json"
    method = method_of(read_object(path, where=where)) if path.is_file() else None
    if method is not None:
        raise all_weights(method, where=where)


def refuse_cutting(reference: str, *, where: str) -> None:
    """Refuses to cut a local folder among processes whose weights are quantized."""
    path = expanded(reference) / "config.json"
    method = method_of(read_object(path, where=where)) if path.is_file() else None
    if method is not None:
        raise UserError(
            f"sharding full needs whole weights (these are quantized: {method}): give the "
            "unquantized model, or set sharding to none",
            where=where,
            kind=ErrorKind.REFUSED_MODEL,
        )


def all_weights(method: str, *, where: str) -> UserError:
    return UserError(
        f"the student's weights are quantized ({method}), so only an adapter can be trained: set "
        "student.lora, or give the unquantized model",
        where=where,
        kind=ErrorKind.REFUSED_MODEL,
    )
