"""From a config to specs, jobs and files: what is run, how, and what it costs."""
