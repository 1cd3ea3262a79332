"""`doctor`: one line per check, JSON, and the exit code."""

from __future__ import annotations

import os
import re

import pytest

from tests.support.cli_process import GOOD, Command
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.harness import BUCKET
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.long

S3_CHECKS = {
    *("server", "credentials", "clock", "bucket", "region", "ListBucket", "PutObject", "PutObjectAcl"),
    *(
        "GetObject",
        "HeadObject",
        "public URL",
        "ACL",
        "CORS",
        "CDN",
        "multipart",
        "checksums",
        "dialect",
        "DeleteObject",
    ),
}
HOST_CHECKS = {
    *("directory", "leases", "rename and unlink", "inotify", "disk space", "disk space of the ledger"),
    *("database", "schema", "catalog", "daemon"),
}


@pytest.fixture
def command(place: str, proxy: FaultProxy) -> Command:
    """The command before a bucket that is set up."""
    command = Command(place, proxy.url)
    assert command("bucket", "setup").code == 0
    return command


def test_after_setup_and_a_first_run_everything_is_ok(command: Command, server: S3Server) -> None:
    assert command("run", "--once").code == 0
    ran = command("doctor", "--json")
    assert (ran.code, ran.err) == (0, "")
    results = ran.json()
    assert {result["name"] for result in results} == S3_CHECKS | HOST_CHECKS
    assert all(result.keys() == {"name", "outcome", "detail", "mend"} for result in results)
    assert {result["outcome"] for result in results if result["name"] not in ("inotify", "disk space")} == {
        "ok"
    }
    assert "Contents" not in server.client().list_objects_v2(Bucket=BUCKET)
    assert os.listdir(os.path.join(command.place, "completed")) == []


def test_for_people_what_passed_is_one_line_a_section_and_a_summary_ends_it(command: Command) -> None:
    ran = command("doctor")
    assert (ran.code, ran.err) == (0, "")
    *lines, summary = ran.out.splitlines()
    findings = [line for line in lines if not line.startswith("not tried")]
    assert all(line.startswith(("ok       ", "warning  ")) for line in findings)
    assert "warning  database: " in ran.out
    assert len([line for line in findings if line.startswith("ok       S3: ")]) == 1
    assert "PutObject, PutObjectAcl" in ran.out
    assert len(findings) < 12
    assert re.fullmatch(r"\d+ checks: \d+ passed, \d+ with a warning, 0 failed, \d+ not tried\.", summary)
    assert "\x1b" not in ran.out


def test_what_was_not_tried_is_said_once(command: Command) -> None:
    ran = command("doctor", COMPLETED_DIR="/nowhere/at/all")
    assert ran.code == 1
    (line,) = [line for line in ran.out.splitlines() if "not tried, because the check of directory" in line]
    assert "leases, " in line
    assert ran.out.count("inotify") == 1
    assert "1 failed" in ran.out.splitlines()[-1]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_one_failed_check_is_exit_1_and_says_how_to_fix_it(
    command: Command, proxy: FaultProxy, form: tuple[str, ...]
) -> None:
    def fault(request: Request, forward: Forward) -> Answer:
        return s3_error(403, "AccessDenied") if request.action == "DeleteObject" else forward()

    proxy.fault = fault
    ran = command("doctor", *form)
    assert (ran.code, ran.err) == (1, "")
    assert "s3:DeleteObject" in ran.out
    if form:
        assert [result["name"] for result in ran.json(code=1) if result["outcome"] == "failed"] == [
            "DeleteObject"
        ]


def test_a_missing_directory_does_not_keep_the_other_checks_from_being_made(command: Command) -> None:
    ran = command("doctor", "--json", COMPLETED_DIR="/nowhere/at/all")
    outcomes = {result["name"]: result["outcome"] for result in ran.json(code=1)}
    assert (outcomes["directory"], outcomes["DeleteObject"]) == ("failed", "ok")


def test_without_acls_the_policy_of_setup_is_enough(command: Command) -> None:
    assert command("doctor", AWS_S3_ACL="none").code == 0


def test_secrets_are_not_shown(command: Command) -> None:
    ran = command("doctor", AWS_SECRET_ACCESS_KEY="s3cr3t-key")
    assert "s3cr3t" not in ran.out + ran.err


def test_iam_prints_a_policy_and_sends_no_request(command: Command, proxy: FaultProxy) -> None:
    proxy.requests.clear()
    ran = command("doctor", "--iam", AWS_S3_ACL="none")
    assert (ran.code, ran.err) == (0, "")
    policy = ran.json()
    assert policy["Version"] == "2012-10-17"
    assert "s3:PutObjectAcl" not in policy["Statement"][0]["Action"]
    assert "s3:PutObjectAcl" in command("doctor", "--iam").json()["Statement"][0]["Action"]
    assert proxy.requests == []


def test_iam_with_json_is_wrong_usage(command: Command) -> None:
    ran = command("doctor", "--iam", "--json")
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.timeout(300)
def test_what_the_server_refuses_is_shown_remembered_and_asked_anew(
    command: Command, proxy: FaultProxy, video: bytes
) -> None:
    """By doctor and config; a daemon starts with what was found."""

    def refuse(request: Request, forward: Forward) -> Answer:
        names = {name.lower() for name in request.headers}
        if "x-amz-checksum-crc64nvme" in names:
            return s3_error(400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc64nvme'")
        return forward()

    command("db", "migrate")
    proxy.fault = refuse
    refused = "PutObject x-amz-checksum-crc64nvme"
    assert refused in command("doctor").out
    assert refused in command("config").err
    proxy.requests.clear()
    command.write(GOOD, video)
    assert command("run", "--once").code == 0
    puts = [request for request in proxy.requests if request.action == "PutObject"]
    assert [{"Content-MD5", "x-amz-checksum-crc64nvme"} & set(request.headers) for request in puts] == [
        {"Content-MD5"}
    ]
    proxy.fault = lambda _request, forward: forward()
    assert refused not in command("doctor").out
    assert refused not in command("config").err
