"""`python -m watcher` is the command `video-uploader`."""

from watcher.cli import main

if __name__ == "__main__":
    main()
