"""The settings: declaration, loading, display, and the policy that a reload changes."""

from watcher.settings.doubts import Doubt, doubtful_settings
from watcher.settings.loading import SettingsError, load_settings
from watcher.settings.model import CatalogKind, Settings, state_directory
from watcher.settings.policy import Policy, local_time
from watcher.settings.report import exposed_secrets, report_settings
from watcher.settings.unused import UnusedSetting, unused_settings

__all__ = [
    "CatalogKind",
    "Doubt",
    "Policy",
    "Settings",
    "SettingsError",
    "UnusedSetting",
    "doubtful_settings",
    "exposed_secrets",
    "load_settings",
    "local_time",
    "report_settings",
    "state_directory",
    "unused_settings",
]
