"""The stages that advance an upload: enqueue, upload, publish, release; and how their errors are handled."""

from watcher.stages.abandoned_multiparts import AbandonedMultiparts
from watcher.stages.cdn_invalidation import Invalidator
from watcher.stages.context import Signals, StageContext
from watcher.stages.disk_pressure import DiskPressure
from watcher.stages.enqueue import Enqueuer
from watcher.stages.error_policy import ErrorPolicy
from watcher.stages.publish import PublishStage
from watcher.stages.release import QuarantineRepair, ReleaseStage
from watcher.stages.runner import Stage, StageRunner
from watcher.stages.upload import UploadStage

__all__ = [
    "AbandonedMultiparts",
    "DiskPressure",
    "Enqueuer",
    "ErrorPolicy",
    "Invalidator",
    "PublishStage",
    "QuarantineRepair",
    "ReleaseStage",
    "Signals",
    "Stage",
    "StageContext",
    "StageRunner",
    "UploadStage",
]
