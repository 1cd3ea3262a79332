"""`python -m watcher` is the command `video-uploader`."""

import gc
from importlib import import_module


def main() -> None:
    """Run the command line, with no collection of reference cycles until its command is imported.

    What imports make is there to stay. The collector would look at it again and again, and once more at the
    end. `watcher.cli.app.collect_cycles` switches it on.
    """
    gc.disable()
    import_module("watcher.cli").main()


if __name__ == "__main__":
    main()
