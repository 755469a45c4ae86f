"""What a person is told whose request is refused: a page of plain HTML; programs get JSON."""

from app.middleware.refusals import HOST_LINES
from tests.app.test_security import ask, options

HTML = {"accept": "text/html,*/*;q=0.8"}


def test_a_foreign_host_is_a_page_for_people_and_json_for_programs() -> None:
    host = {"host": "backend:8080"}
    page = ask(headers=host | HTML)[0]
    assert page.status_code == 403 and page.headers["content-type"].startswith("text/html")
    assert "&#x27;backend:8080&#x27; is not one of this server" in page.text
    for line in (*HOST_LINES.values(), "--allow-host NAME", "docs/proxy.md"):
        assert line in page.text
    assert "<script" not in page.text and "<link" not in page.text
    refusal = ask(headers=host)[0].json()
    assert refusal["lines"] == HOST_LINES and "--allow-host NAME" in refusal["error"]
    assert "address bar" in refusal["hint"]


def test_what_was_sent_is_escaped() -> None:
    page = ask(headers={"host": "<script>alert(1)</script>", **HTML})[0].text
    assert "<script" not in page and "&lt;script&gt;" in page


def test_without_the_cookie_the_page_says_what_it_needs() -> None:
    page = ask(headers={"host": "127.0.0.1:7860", **HTML}, served=options(host="0.0.0.0"))[0]
    assert page.status_code == 401
    for part in ("opd serve", "?token=…", "Allow cookies for this address", "window of its own"):
        assert part in page.text


def test_a_wrong_link_is_not_blamed_on_cookies() -> None:
    page = ask(url="/?token=wrong", headers=HTML)[0]
    assert page.status_code == 401 and "token of this link is not the server" in page.text
    assert "opd serve" in page.text and "cookie" not in page.text


def test_other_refusals_are_json() -> None:
    for headers, status in (({"x-long": "x" * 40_000}, 431), ({"content-length": "x"}, 400)):
        assert set(ask(headers=headers | HTML)[0].json()) == {"error"}
        assert ask(headers=headers | HTML)[0].status_code == status
