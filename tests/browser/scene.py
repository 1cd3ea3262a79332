"""A busy daemon for the page to show: every state, uploads that move, an error, and an hour of history."""

from __future__ import annotations

import math
import time
from itertools import count

from db import Identity, State, Upload
from tests.support.databases import advance_to, claim, enqueue
from tests.support.served_site import ServedSite
from watcher.telemetry.history import Minute

VIDEOS = (
    ("4be1c7f0-52a5-4c0e-9d57-0a8e3c6b1f42", "lecture-07-thermodynamics"),
    ("9a3d0c1e-7f64-4f0b-8a53-6c2b9d1e5a70", "harbour-at-dawn"),
    ("c27f5b88-0e1d-4a3c-b9e6-3f4d2a1c8e05", "interview_marta_final"),
    ("e81a4d2c-6b90-47d5-a1f8-5d7c3e2b9f16", "Sommerfest 2026, Zusammenschnitt"),
)
SIZES = {
    "240p": 18_400_000,
    "480p": 61_900_000,
    "720p": 148_000_000,
    "1080p": 402_000_000,
    "original": 2_830_000_000,
}
INODES = count(100)
REASON = (
    "The MP4 container has no moov box. The file is damaged: its encoder was killed, or two encoders wrote "
    "it at once. Compress the video again."
)


def play(site: ServedSite) -> None:
    """Put the scene into the ledger and the daemon."""
    ledger, progress = site.harness.app.ledger, site.harness.app.context.transfer_progress
    for place, (video_id, name) in enumerate(VIDEOS):
        for quality in SIZES:
            upload = add(site, video_id, name, quality)
            if place < 2 or (place == 2 and quality in {"240p", "480p"}):
                advance_to(ledger, upload, State.RELEASED if place == 0 else State.PUBLISHED)
    for quality in ("720p", "1080p"):
        add(site, "0d5e9c3a-1b27-4c68-8e4f-7a6b5c4d3e2f", "old_tape_12", quality)
    for upload in claim(ledger, limit=100):
        if upload.filename.startswith("old_tape"):
            ledger.advance(upload, State.REJECTED, error=REASON, error_code="incomplete")
        elif upload.filename.startswith("interview") and upload.quality != "original":
            progress.begin(upload, is_resumed=False)
            progress._transfers[upload.id].started_at -= 11
            progress.update(upload, upload.size * (37 if upload.quality == "720p" else 81) // 100)
    history = site.status.history
    now = int(time.time()) // 60 * 60
    for ago in range(59, -1, -1):
        wave = 1 + math.sin(ago / 6) + math.sin(ago / 2.3) / 2 if ago < 48 else 0
        history._minutes.append(Minute(now - 60 * ago, max(0.0, wave) * 9e8, round(max(0.0, wave) * 4)))
    site.report()


def add(site: ServedSite, video_id: str, name: str, quality: str) -> Upload:
    """Enqueue a rendition of a plausible size, closed a moment ago."""
    closed_ns = time.time_ns() - 700_000_000
    identity = Identity(2049, next(INODES), SIZES.get(quality, 1_000_000), closed_ns)
    path = f"{video_id}/{name}{'' if quality == 'original' else f'_{quality}'}.mp4"
    return enqueue(
        site.harness.app.ledger,
        path,
        video_id=video_id,
        filename=f"{name}.mp4",
        quality=quality,
        identity=identity,
    )
