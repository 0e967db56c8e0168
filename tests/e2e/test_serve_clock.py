"""A real server whose wall clock jumps, forwards and back: libfaketime moves it while it serves.

Only the wall clock is moved, as NTP or an administrator would: the monotonic one stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
import yaml
from tests.issuers import ISSUER, Issuer
from tests.refusal import refuse
from tests.serving import FULL, Project, Server, body, make_project, wait_until

from tidemill.server.keys import make_entry

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = pytest.mark.slow

INFER = "/v2/models/flight-delay/infer"
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
"""The server's time at first; no test crosses midnight by itself."""


class Jumping:
    """A server, and the file that its wall clock follows."""

    def __init__(self, project: Project, *options: str) -> None:
        self._file = project.root / "offset"
        self.jump(timedelta(0))
        environment = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "TIDEMILL_CLOCK": "",
        }
        self.server: Server = project.serve(*options, env=environment)

    def jump(self, beyond_noon: timedelta) -> None:
        """Set the server's wall clock, from where it goes on."""
        offset = NOON + beyond_noon - datetime.now(UTC)
        part = self._file.with_suffix(".part")
        part.write_text(f"{offset.total_seconds():+.0f}\n")
        part.replace(self._file)

    def ask(self, credential: str = "", name: str = "x") -> httpx.Response:
        headers = {"authorization": f"Bearer {credential}"} if credential else {}
        content = body(FULL) | {"id": name}
        return httpx.post(self.server.url + INFER, json=content, headers=headers)

    def told(self, credential: str) -> tuple[int, str]:
        answer = self.ask(credential)
        return answer.status_code, answer.json().get("code", "")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    if FAKETIME is None:
        refuse("NO TESTS OF A CLOCK THAT JUMPS", "libfaketime is absent: apt-get install faketime")
    made = make_project(tmp_path)
    yield made
    made.close()


def test_what_ends_at_a_moment_follows_the_clock_and_what_takes_time_does_not(
    project: Project,
) -> None:
    issuer = Issuer()
    (project.root / "jwks.json").write_bytes(issuer.jwks)
    soon = NOON + timedelta(hours=1)
    rated, rate = make_entry("rated", permissions=["infer"], rate=0.001, burst=2)
    counted, quota = make_entry("counted", permissions=["infer"], quota=2)
    ending, expiry = make_entry("ending", permissions=["infer"], expires=soon)
    (project.root / "keys.yaml").write_text(yaml.safe_dump([rate, quota, expiry]))
    token = issuer.token(exp=soon.timestamp(), iat=(NOON - timedelta(hours=1)).timestamp())
    world = Jumping(
        project,
        *("--set", "serving.auth.key_file=keys.yaml", "--set", "serving.auth.jwt.jwks=jwks.json"),
        *(
            "--set",
            "serving.auth.jwt.audience=models",
            "--set",
            f"serving.auth.jwt.issuer={ISSUER}",
        ),
    )
    limited, over = (429, "rate_limited"), (429, "quota_exceeded")
    assert [world.told(rated) for _ in range(3)] == [(200, ""), (200, ""), limited]
    assert [world.told(counted) for _ in range(3)] == [(200, ""), (200, ""), over]
    assert [world.told(ending), world.told(token)] == [(200, ""), (200, "")]
    wait_until(lambda: (project.root / ".tidemill/quota.db").stat().st_size > 0)
    with httpx.Client(base_url=world.server.url) as idle:
        idle.get("/v2/health/live")
        open_before = idle.get("/v2/health/live").extensions["network_stream"]

        world.jump(timedelta(days=2))
        assert world.told(rated) == limited  # two days of the wall clock are no time at all
        assert world.told(ending) == (401, "expired_key")
        assert world.told(token) == (401, "expired_token")
        assert [world.told(counted) for _ in range(3)] == [(200, ""), (200, ""), over]
        later = idle.get("/v2/health/ready")
        assert later.extensions["network_stream"] is open_before  # no timer fired
        shown = datetime.strptime(later.headers["date"], "%a, %d %b %Y %H:%M:%S GMT")
        assert shown.replace(tzinfo=UTC) - NOON < timedelta(days=3)

        world.jump(timedelta(minutes=1))
        assert world.told(rated) == limited
        assert [world.told(ending), world.told(token)] == [(200, ""), (200, "")]
        wait_until(lambda: world.told(counted) == over)
        world.jump(timedelta(days=-2))
        assert world.told(rated) == limited
        assert world.told(ending) == (200, "")
        wait_until(lambda: [world.told(counted) for _ in range(3)][-1] == over)
        world.jump(timedelta(minutes=2))
        wait_until(lambda: world.told(counted) == over)
        assert idle.get("/v2/health/ready").status_code == 200
    assert world.server.stop() == 0


def test_no_row_is_lost_and_each_lies_under_the_day_it_was_answered(project: Project) -> None:
    world = Jumping(project, "--set", "serving.cache_entries=10")
    days = [0, 2, 0, -3, 0]
    for turn, day in enumerate(days):
        world.jump(timedelta(days=day, minutes=turn))
        for number in range(3):
            answer = world.ask(name=f"{turn}-{number}")
            assert answer.status_code == 200
        wait_until(lambda turn=turn: world.server.metric("tidemill_log_rows_total") == 3 * turn + 3)  # type: ignore[misc]
    assert world.server.metric("tidemill_cache_hits_total") == 3 * len(days) - 1
    assert world.server.metric("tidemill_log_lost_total") == 0
    assert world.server.metric("tidemill_slow_total") == 0  # durations know nothing of the jumps
    assert world.server.stop() == 0
    root = project.root / ".tidemill/objects/predictions/flight-delay"
    for offset in set(days):
        day = (NOON + timedelta(days=offset)).date()
        found = pl.concat([pl.read_parquet(f) for f in (root / f"dt={day}").glob("*.parquet")])
        wanted = [f"{t}-{n}" for t, d in enumerate(days) if d == offset for n in range(3)]
        assert sorted(found["request_id"]) == wanted
        assert set(found["at"].dt.date()) == {day}
