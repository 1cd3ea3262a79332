"""A CloudFront distribution on moto, and its invalidations."""

from typing import Any
from uuid import uuid4
from xml.etree import ElementTree as ET

import boto3

from tests.support.fault_proxy import FaultProxy, Request
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

_NAMESPACE = "{http://cloudfront.amazonaws.com/doc/2020-05-31/}"


class Cdn:
    """A distribution at the API at `url`, which is a moto server or a proxy in front of one."""

    def __init__(self, url: str) -> None:
        self._client: Any = boto3.session.Session().client(
            "cloudfront",
            region_name=REGION,
            endpoint_url=url,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
        )
        answer = self._client.create_distribution(
            DistributionConfig={
                "CallerReference": str(uuid4()),
                "Comment": "",
                "Enabled": True,
                "Origins": {"Quantity": 1, "Items": [{"Id": "bucket", "DomainName": "b.s3.amazonaws.com"}]},
                "DefaultCacheBehavior": {
                    "TargetOriginId": "bucket",
                    "ViewerProtocolPolicy": "allow-all",
                    "MinTTL": 0,
                    "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}},
                },
            }
        )
        self.id: str = answer["Distribution"]["Id"]

    def close(self) -> None:
        """Release the connections."""
        self._client.close()

    def forgotten(self) -> list[list[str]]:
        """The paths of every invalidation that was made, in order."""
        listed = self._client.list_invalidations(DistributionId=self.id)["InvalidationList"].get("Items", [])
        batches = [
            self._client.get_invalidation(DistributionId=self.id, Id=item["Id"])["Invalidation"]
            for item in listed
        ]
        return [batch["InvalidationBatch"]["Paths"]["Items"] for batch in batches]


def asked_to_forget(proxy: FaultProxy) -> list[list[str]]:
    """The paths of every request to invalidate that came through a proxy, accepted or not."""
    return [
        [path.text or "" for path in ET.fromstring(request.body).iter(f"{_NAMESPACE}Path")]
        for request in invalidations(proxy)
    ]


def references(proxy: FaultProxy) -> list[str]:
    """The CallerReference of every such request."""
    return [
        ET.fromstring(request.body).findtext(f"{_NAMESPACE}CallerReference", "")
        for request in invalidations(proxy)
    ]


def invalidations(proxy: FaultProxy) -> list[Request]:
    """The requests to invalidate anything."""
    return [request for request in proxy.requests if request.path.endswith("/invalidation")]
