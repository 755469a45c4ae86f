"""HTTP clients are made in one module, which knows what goes through a proxy and what does not."""

import ast

from tests.repository.test_layers import imported, modules

MAKER = "opd.network"
LIBRARIES = (
    "urllib.request",
    "http.client",
    "urllib3",
    "requests",
    "aiohttp",
    "httpx2",
    "websockets",
)
MAKERS = {"Client", "AsyncClient", "HTTPTransport", "AsyncHTTPTransport"} | {
    *("get", "options", "head", "post", "put", "patch", "delete", "request", "stream"),
}


def makes_clients(module: str, tree: ast.AST) -> list[str]:
    """What of a module's source opens connections by itself."""
    names = sorted(imported(module))
    met = [n for n in names if any(n == lib or n.startswith(f"{lib}.") for lib in LIBRARIES)]
    met += [n for n in names if n.startswith("httpx.") and n.split(".")[1] in MAKERS]
    return met + [
        f"httpx.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "httpx"
        and node.attr in MAKERS
    ]


def of_source(module: str) -> list[str]:
    source = modules()[module].read_text(encoding="utf-8")
    return makes_clients(module, ast.parse(source if "httpx." in source else ""))


def test_nobody_else_makes_a_client() -> None:
    product = [
        name for name in modules() if name.split(".")[0] in ("app", "opd", "storage", "bench")
    ]
    wrong = {module: met for module in product if module != MAKER and (met := of_source(module))}
    assert wrong == {}


def test_clients_are_seen() -> None:
    assert {"urllib.request", "httpx.Client", "httpx.AsyncClient"} <= {*of_source(MAKER)}
    assert "httpx.AsyncClient" in of_source("tests.app.test_security")
    assert "urllib.request" in of_source("tests.conftest")
    assert of_source("opd.teachers.vllm_client") == []
