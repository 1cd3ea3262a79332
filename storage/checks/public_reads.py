"""What a player meets: the public URL, a browser's question before a script may read it, and the CDN."""

from urllib.parse import urlsplit

from storage import anonymous_http
from storage.anonymous_http import Answer
from storage.checks.results import CheckResult, failed, ok, warning
from storage.config import StorageConfig
from storage.errors import StorageError
from storage.keys import public_url

_WAYS = (
    "There are three ways: AWS_S3_ACL=public-read on a bucket that has ACLs enabled; AWS_S3_ACL=none and a "
    "bucket policy that lets everybody read the prefix; a CDN that reads the bucket, with its domain in the "
    "public URL. `video-uploader bucket setup` does what the first two need."
)
_SOMEBODY = "https://player.example"
_METHOD = "GET"


class Publicity:
    """One object that is there, with known content, seen by somebody who has no credentials."""

    def __init__(
        self,
        config: StorageConfig,
        key: str,
        content: bytes,
        *,
        cors_origins: tuple[str, ...],
        cdn_domain: str | None,
    ) -> None:
        self._config = config
        self._key = key
        self._content = content
        self._cors_origins = cors_origins
        self._cdn_domain = cdn_domain
        self._url = public_url(config.public_base_url, key)

    def url(self) -> CheckResult:
        """Whether the object's public URL gives its content."""
        return self._fetch("public URL", self._url, _WAYS)

    def acl(self, *, is_accepted: bool, is_public: bool) -> CheckResult:
        """Whether objects get public in the way that the settings ask for, or in another one."""
        acl = self._config.acl
        if not is_public:
            said = "None is sent" if acl is None else f"{acl} is {'accepted' if is_accepted else 'refused'}"
            return failed("ACL", f"{said}, and the object is not public.", _WAYS)
        if acl is None:
            return ok("ACL", "None is sent; the bucket's policy or a CDN makes the object public.")
        if is_accepted:
            return ok("ACL", f"{acl} is accepted.")
        return warning(
            "ACL",
            f"{acl} is refused, and the object is public anyway.",
            "Set AWS_S3_ACL=none: it is not needed.",
        )

    def cors(self) -> CheckResult:
        """Whether a browser would let a script of each wanted origin read ranges of the object."""
        refused = []
        for pattern in self._cors_origins:
            origin = _SOMEBODY if pattern == "*" else pattern.replace("*", "player")
            try:
                answer = self._preflight(origin)
            except StorageError as exc:
                return failed("CORS", "A preflight request got no answer.", exc.hint)
            if not _allows(answer, origin):
                refused.append(origin)
        if refused:
            return failed(
                "CORS",
                f"Scripts of {', '.join(refused)} may not read objects.",
                "Run `video-uploader bucket setup`; where a CDN answers, let it pass Origin and OPTIONS on.",
            )
        return ok("CORS", f"Scripts of {', '.join(self._cors_origins)} may read objects.")

    def cdn(self) -> CheckResult:
        """Whether the CDN gives the object, if there is one."""
        if self._cdn_domain is None:
            return ok("CDN", "None is configured.")
        return self._fetch(
            "CDN",
            public_url(f"https://{self._cdn_domain}", self._key),
            "Make the bucket the distribution's origin, without an origin path, and let the "
            "distribution read it (origin access control, or a public bucket).",
        )

    def _fetch(self, name: str, url: str, mend: str) -> CheckResult:
        try:
            answer = anonymous_http.ask(url)
        except StorageError as exc:
            return failed(name, f"{url} gives no answer.", exc.hint)
        if answer.status == 404:
            mend = "Uploads do not go where the URL leads: check AWS_S3_BASE_URL and the CDN's origin."
        if answer.status != 200:
            return failed(name, f"{url} answers {answer.status} to somebody without credentials.", mend)
        if answer.body != self._content:
            return failed(name, f"{url} answers with something else than was stored.", mend)
        cache = answer.headers.get("x-cache")
        through = f", {cache}" if cache else ""
        return ok(name, f"Everybody can read what is stored, at {urlsplit(url).netloc}{through}.")

    def _preflight(self, origin: str) -> Answer:
        # S3 answers by the bucket's rules, whether there is such an object or not; moto, where there is one,
        # wants the policy to allow a method that S3's policies do not know.
        return anonymous_http.ask(
            f"{self._url}-preflight",
            method="OPTIONS",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": _METHOD,
                "Access-Control-Request-Headers": "range",
            },
        )


def _allows(answer: Answer, origin: str) -> bool:
    """Whether a preflight's answer lets the origin go on (https://fetch.spec.whatwg.org/#cors-preflight-fetch)."""
    said = answer.headers
    methods = {word.strip() for word in said.get("access-control-allow-methods", "").split(",")}
    headers = {word.strip().lower() for word in said.get("access-control-allow-headers", "").split(",")}
    return (
        200 <= answer.status < 300
        and said.get("access-control-allow-origin") in ("*", origin)
        and bool(methods & {_METHOD, "*"})
        and bool(headers & {"range", "*"})
    )
