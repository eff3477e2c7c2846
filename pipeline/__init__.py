"""Where the parts meet: CLI, config, the three stages, engine, checkpoints, report."""
