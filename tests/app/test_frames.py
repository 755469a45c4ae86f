"""Who may show the dashboard in a frame: origins that are taken, headers and cookie that follow."""

from typing import Any

import pytest

from app.frames import frames_of
from app.origins import origins_of
from opd.errors import UserError
from tests.app.test_security import COOKIE, LINK, TOKEN, ask, options, status

FRAMED = LINK | COOKIE | {"sec-fetch-dest": "iframe"}
PROXY = {"allow_hosts": ["studio.lab.example"]}


@pytest.mark.parametrize(
    ("value", "across"),
    [
        ("http://localhost:8888", True),
        ("http://127.0.0.1", True),
        ("http://studio.lab.example:1", True),
        ("http://Portal.Lab.Example", True),
        ("https://portal.lab.example:8443", False),
        ("https://lab.example", False),
        ("https://portal.example.org", True),
        ("https://localhost", True),
        ("https://10.0.0.7", True),
    ],
)
def test_origins_that_are_taken(value: str, across: bool) -> None:
    frames = frames_of([value, value], origins_of("127.0.0.1", PROXY["allow_hosts"], ""))
    assert frames.ancestors == value.lower()
    assert frames.across_sites("studio.lab.example:443") == across


@pytest.mark.parametrize(
    "value",
    [
        *("", "*", "null", "portal.example", "//portal.example", "ftp://portal.example"),
        *("https://", "https://*.example", "https://portal.example/", "https://portal.example/a"),
        *("https://a.example?b", "https://a.example#b", "https://me@a.example", "https://[::1]"),
        *("https://a.example;script-src *", "https://a.example b", "https://a.example\r\nx: y"),
        *("https://a.example\x00", "https://a.example:99999", "https://a.example:", "https://ä.de"),
        *("javascript:alert(1)", "'self'", "HTTPS://a.example", "https://a.example\n"),
    ],
)
def test_what_is_not_an_origin_is_refused_by_value(value: str) -> None:
    with pytest.raises(UserError, match="is not an origin: scheme, name and port") as refused:
        frames_of([value], origins_of("127.0.0.1", ["studio.lab.example"], ""))
    assert str(refused.value).startswith(f"--allow-frame: {value!r} ")


@pytest.mark.parametrize(
    ("value", "changes", "message"),
    [
        ("http://portal.example.org", PROXY, "of another site"),
        ("http://lab.example.org", PROXY, "of another site"),
        ("http://other.co.uk", {"allow_hosts": ["studio.co.uk"]}, "of another site"),
        ("http://192.168.1.5", {}, "of another site"),
        ("http://localhost.evil.example", {}, "of another site"),
        ("https://portal.example", {}, "this server over http"),
        ("https://localhost", {}, "this server over http"),
    ],
)
def test_what_no_browser_would_let_work_is_refused_with_the_reason(
    value: str, changes: dict[str, Any], message: str
) -> None:
    served = origins_of("127.0.0.1", changes.get("allow_hosts", []), "")
    with pytest.raises(UserError, match=message):
        frames_of([value], served)


def test_bound_to_all_addresses_a_page_by_address_may_be_of_this_machine() -> None:
    everywhere = origins_of("0.0.0.0", [], "")
    assert frames_of(["http://192.168.1.5:1"], everywhere).ancestors == "http://192.168.1.5:1"


def test_both_headers_are_replaced() -> None:
    served = options(allow_frames=["http://localhost:1", "http://127.0.0.1:2"])
    for response, _ in (ask(served=served), ask(headers={"host": "evil.example"}, served=served)):
        assert "x-frame-options" not in response.headers
        policy = response.headers["content-security-policy"]
        assert policy.endswith("; frame-ancestors http://localhost:1 http://127.0.0.1:2")
        assert "default-src 'self'" in policy


def test_a_page_may_be_opened_in_a_frame_and_nothing_else() -> None:
    served = options(allow_frames=["http://localhost:1"])
    for site in ("same-site", "cross-site"):
        headers = FRAMED | {"sec-fetch-site": site}
        assert status(headers=headers) == 403
        assert status(headers=headers, served=served) == 200
        for change in ({"sec-fetch-dest": "object"}, {"sec-fetch-mode": "no-cors"}):
            assert status(headers=headers | change, served=served) == 403
        assert status("POST", headers, served=served) == 403


@pytest.mark.parametrize(
    ("scheme", "value", "attributes"),
    [
        ("https", "https://portal.example.org", "SameSite=none; Secure; Partitioned"),
        ("https", "https://portal.lab.example", "SameSite=lax; Secure"),
        ("https", "http://portal.lab.example", "SameSite=none; Secure; Partitioned"),
        ("http", "https://portal.example.org", "SameSite=lax"),
    ],
)
def test_the_cookie_of_a_frame(scheme: str, value: str, attributes: str) -> None:
    served = options(allow_frames=[value], **PROXY)
    host = {"host": "studio.lab.example"}
    url = f"{scheme}://studio.lab.example/run?token={TOKEN}"
    response, _ = ask(url=url, headers=host, served=served)
    assert response.status_code == 303
    assert response.headers["set-cookie"].endswith(f"; Path=/; {attributes}")
