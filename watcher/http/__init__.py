"""The HTTP server: status page, metrics, health and a JSON API. Nothing on it changes anything.

Its libraries are loaded when it starts, and those of the page with the first page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
