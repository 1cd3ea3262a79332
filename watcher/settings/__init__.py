"""The settings: declaration, loading, display, and the policy that a reload changes."""

from watcher.settings.loading import SettingsError, load_settings
from watcher.settings.model import CatalogKind, Settings, state_directory
from watcher.settings.policy import Policy
from watcher.settings.report import SettingReport, exposed_secrets, mask_url, report_settings

__all__ = [
    "CatalogKind",
    "Policy",
    "SettingReport",
    "Settings",
    "SettingsError",
    "exposed_secrets",
    "load_settings",
    "mask_url",
    "report_settings",
    "state_directory",
]
