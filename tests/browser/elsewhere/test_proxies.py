"""Pages behind a proxy: they come up, or say which header is missing."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.api_client import stored_run
from tests.support.browser_server import TOKEN, VIEW_TOKEN, loopback_server
from tests.support.databases.matrix import new_database
from tests.support.network.web_server import free_port, nginx

pytestmark = pytest.mark.browser
SECURE, BOX = "studio.localhost", ".opd-first-look"


def own_address() -> str:
    """An address of this machine that browsers take for another's: nothing is sent to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """Of two servers with data directories, hence tokens' cookies, of their own."""
    with ExitStack() as stack:
        numbers = []
        for token in (TOKEN, "another"):
            folder = tmp_path_factory.mktemp("proxied")
            engine = new_database(folder)
            stack.callback(engine.dispose)
            stored_run(engine)
            hosts = [SECURE, own_address()]
            serving = loopback_server(engine, folder, allow_hosts=hosts, token=token)
            numbers.append(int(stack.enter_context(serving).rstrip("/").rpartition(":")[2]))
        yield numbers


@pytest.fixture
def proxied(ports: list[int], tmp_path: Path) -> Iterator[Callable[..., int]]:
    with ExitStack() as stack:

        def start(location: str = "/", line: str = "", cut: str = "") -> int:
            port = free_port()
            text = f"location {location} {{ proxy_pass http://127.0.0.1:{ports[0]}{cut}; {line} }}"
            server = f"server {{ listen 0.0.0.0:{port}; {text} }}"
            stack.enter_context(nginx(tmp_path / str(port), server, port))
            return port

        yield start


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()


def rename(page: Any, name: str) -> int:
    """The status of a change that the page makes."""
    return int(
        page.evaluate(
            """async (name) => {
                const run = (await (await fetch("api/v1/runs")).json()).items[0].id;
                const headers = { "content-type": "application/json" };
                const body = JSON.stringify({ name });
                const options = { method: "PATCH", headers, body };
                return (await fetch(`api/v1/runs/${run}`, options)).status;
            }""",
            name,
        )
    )


def test_with_the_lines_that_nginx_has_by_itself(page: Any, proxied: Callable[..., int]) -> None:
    page.goto(f"http://{SECURE}:{proxied()}/?token={TOKEN}")
    expect(page.locator("table tbody tr").first).to_be_visible()
    assert rename(page, "behind nginx") == 200
    expect(page.locator(BOX)).to_have_count(0)
    page.get_by_role("link", name="New run").first.click()
    expect(page.locator("[data-opd-page=new]")).to_be_visible()
    assert page.url.startswith(f"http://{SECURE}:")


def test_where_it_cannot_work_a_page_without_modules_says_why(
    page: Any, proxied: Callable[..., int]
) -> None:
    address = own_address()
    if address.startswith("127."):
        pytest.skip("this machine has no address but the loopback's")
    page.goto(f"http://{address}:{proxied()}/?token={TOKEN}")
    box = page.get_by_role("alert")
    expect(box).to_contain_text("a proxy on the way does not pass on the header Host")
    expect(box).to_contain_text("proxy_set_header Host $http_host;")
    assert rename(page, "no") == 403
    page.goto(f"http://{address}:{proxied('/studio/', cut='/')}/studio/")
    expect(page.get_by_role("alert")).to_have_count(2)
    expect(page.locator("body")).to_contain_text("opd serve --root-path /studio")
    expect(page.locator("body")).to_contain_text("proxy_set_header Host $http_host;")
    page.goto(
        f"http://{address}:{proxied(line='proxy_set_header Host $http_host;')}/?token={TOKEN}"
    )
    expect(page.locator("table tbody tr").first).to_be_visible()
    expect(page.locator(BOX)).to_have_count(0)
    assert rename(page, "yes") == 200


def test_a_prefix_that_the_server_was_not_told_of(page: Any, proxied: Callable[..., int]) -> None:
    page.goto(f"http://{SECURE}:{proxied('/studio/', cut='/')}/studio/?token={TOKEN}")
    expect(page.get_by_role("alert")).to_contain_text("opd serve --root-path /studio")
    expect(page.locator("table tbody tr").first).to_be_visible()
    assert rename(page, "below") == 200


def test_two_servers_in_one_browser(page: Any, ports: list[int]) -> None:
    """Of one host name, as two tunnels make them: the second does not sign the first out."""
    first, second = (f"http://127.0.0.1:{port}/" for port in ports)
    page.goto(f"{first}?token={TOKEN}")
    page.goto(f"{second}?token=another")
    for address in (first, second):
        page.goto(address)
        assert rename(page, "mine") == 200


def test_without_cookies_the_page_says_what_it_needs(page: Any, ports: list[int]) -> None:
    page.add_init_script("Object.defineProperty(navigator, 'cookieEnabled', { value: false })")
    page.goto(f"http://127.0.0.1:{ports[0]}/playground?token={VIEW_TOKEN}")
    page.context.clear_cookies()
    page.reload()
    expect(page.locator("main, body").first).to_contain_text("This browser blocks cookies here")
