"""The daemon where the only way to S3 is a proxy."""

from __future__ import annotations

import pytest

from tests.support.daemon_process import command, place_file, running_daemon
from tests.support.forward_proxy import ForwardProxy
from tests.support.harness import MakeSettings
from tests.support.media import Media
from tests.support.video_files import PATH

pytestmark = pytest.mark.long

PASSWORD = "kingfisher-of-the-proxy"


def test_a_proxy_that_refuses_pauses_the_stage_by_its_name_until_it_lets_the_daemon_through(
    settings: MakeSettings, media: Media
) -> None:
    chosen = settings(LOG_LEVEL="DEBUG")
    place_file(chosen, PATH, media.faststart)
    with ForwardProxy(login=f"user:{PASSWORD}", refusal=407) as proxy:
        named = {"HTTP_PROXY": proxy.url.replace("//", f"//user:{PASSWORD}@")}
        with running_daemon(chosen, environment=named) as daemon:
            paused = daemon.expect("stage_paused")
            assert proxy.address in str(paused)
            assert "proxy-refused" in str(paused)
            proxy.refusal = None
            daemon.expect("upload_released", path=PATH)
            assert PASSWORD.encode() not in daemon.raw
        assert len(proxy.targets) > 1


def test_doctor_takes_the_proxy_too_and_names_its_variable(settings: MakeSettings) -> None:
    with ForwardProxy() as proxy:
        ran = command(settings(), "doctor", environment={"HTTP_PROXY": proxy.url})
    assert "answers through HTTP_PROXY" in ran.stdout
    assert proxy.targets
