"""What tests are built from: real servers, real files, processes, and ways to misbehave."""
