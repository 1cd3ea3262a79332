"""The stages that advance an upload: enqueue, upload, publish, release; and how their errors are handled."""
