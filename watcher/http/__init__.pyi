from .application import Site, make_application
from .pages import Pages
from .server import HttpServer
from .source import Source

__all__ = ["HttpServer", "Pages", "Site", "Source", "make_application"]
