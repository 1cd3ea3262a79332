"""What a server was found to refuse is kept by server and bucket."""

import pytest

from db import Database, DialectFinding, ServerDialects
from tests.support.databases import Clock


@pytest.fixture
def dialects(database: Database) -> ServerDialects:
    return ServerDialects(database, "https://s3.example", "videos")


def test_findings_are_kept_for_their_server_and_bucket_alone(
    dialects: ServerDialects, database: Database, clock: Clock
) -> None:
    finding = DialectFinding("PutObject x-amz-acl", "NotImplemented: Header x-amz-acl", clock.now)
    dialects.replace([finding])
    assert dialects.findings() == [finding]
    assert not ServerDialects(database, "https://s3.example", "other").findings()
    assert not ServerDialects(database, "https://other.example", "videos").findings()


def test_what_is_found_replaces_all_that_was_known_of_the_server(
    dialects: ServerDialects, database: Database, clock: Clock
) -> None:
    other = ServerDialects(database, "https://other.example", "videos")
    for found in (dialects, other):
        found.replace([DialectFinding("a", "", clock.now)])
    dialects.replace([DialectFinding("b", "", clock.now)])
    assert [finding.feature for finding in dialects.findings()] == ["b"]
    assert [finding.feature for finding in other.findings()] == ["a"]
