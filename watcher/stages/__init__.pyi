from .abandoned_multiparts import AbandonedMultiparts
from .cdn_invalidation import Invalidator
from .context import OperatorOrders, Signals, StageContext
from .disk_pressure import DiskPressure
from .enqueue import Enqueuer
from .error_policy import ErrorPolicy
from .publish import PublishStage
from .receipts import ReceiptKeeper
from .release import QuarantineRepair, ReleaseStage
from .runner import Stage, StageRunner
from .upload import UploadStage

__all__ = [
    "AbandonedMultiparts",
    "DiskPressure",
    "Enqueuer",
    "ErrorPolicy",
    "Invalidator",
    "OperatorOrders",
    "PublishStage",
    "QuarantineRepair",
    "ReceiptKeeper",
    "ReleaseStage",
    "Signals",
    "Stage",
    "StageContext",
    "StageRunner",
    "UploadStage",
]
