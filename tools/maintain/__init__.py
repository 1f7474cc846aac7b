"""Commands for maintainers: training the bundled models, checks against recordings, generated documents."""
