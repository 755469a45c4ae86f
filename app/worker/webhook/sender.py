"""Posts one message to a receiver, and logs how that went.

    OPD_WEBHOOK=URL python -m app.worker.webhook.sender < MESSAGE

Addresses of receivers often hold a secret: the log names only the host.
"""

import json
import logging
import os
import signal
import sys
import time
from types import FrameType

import httpx

from app.worker.logs import start_log
from app.worker.webhook.notification import VARIABLE, checked_url
from opd import network
from opd.errors import UserError

log = logging.getLogger(__name__)
TIMEOUT = 5.0  # seconds, of each wait for the receiver
PAUSE = 1.0  # seconds before the second try


def send(url: str, message: bytes, pause: float | None = None) -> str:
    """Posts the message; "" when it was taken, else the reason why not.

    A second try follows where the first surely did not take effect: no connection, or an answer
    of 429 or 5xx. Redirects are not followed."""
    reason = _try(url, message)
    if reason.startswith(("no connection", "answered 429", "answered 5")):
        time.sleep(PAUSE if pause is None else pause)
        reason = _try(url, message)
    return reason


def _try(url: str, message: bytes) -> str:
    run = json.loads(message)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "opd-studio",
        "Idempotency-Key": f"{run['run_id']}-{run['attempt']}",
    }
    try:
        with (
            network.client(url, timeout=TIMEOUT) as client,
            client.stream("POST", url, content=message, headers=headers) as answer,
        ):
            code = answer.status_code
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return f"no connection ({type(error).__name__})"
    except httpx.TimeoutException:
        return f"no answer within {TIMEOUT:.0f} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the request failed ({type(error).__name__})"
    if answer.is_redirect:
        return f"answered {code}: redirects are not followed"
    return "" if answer.is_success else f"answered {code}"


def _result(url: str, message: bytes) -> str:
    """As `send`, within the time that `main` allows; a proxy on the way is named."""
    try:
        proxy = network.proxy_for(url)
    except UserError as error:
        return str(error)
    try:
        reason = send(url, message)
    except httpx.ReadTimeout:
        reason = f"no answer within {TIMEOUT:.0f} s"
    return reason and reason + network.through(proxy)


def _late(_number: int, _frame: FrameType | None) -> None:
    """An answer that trickles in passes every pause between two bytes, but not this."""
    raise httpx.ReadTimeout("took too long")


def main() -> int:
    start_log()
    signal.signal(signal.SIGALRM, _late)
    url = checked_url(os.environ[VARIABLE])
    host = httpx.URL(url).host
    signal.setitimer(signal.ITIMER_REAL, 2 * TIMEOUT + PAUSE + 1)
    reason = _result(url, sys.stdin.buffer.read())
    if reason:
        log.error("webhook: %s not notified of the end of the run: %s", host, reason)
        return 1
    log.info("webhook: %s notified of the end of the run", host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
