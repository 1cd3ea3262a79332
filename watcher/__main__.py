"""`python -m watcher` is the command `video-uploader`."""

from watcher.cli.app import main

if __name__ == "__main__":
    main()
