"""The figures this project claims, each printed by one command: ``./scripts/bench NAME``."""
