"""The command line: ``skipstone COMMAND``.

One module a command. Packages built on this one add commands of their own through the entry point
group ``skipstone.commands``, so that the board's Python never needs what they need.
"""

from __future__ import annotations

from .app import main

__all__ = ["main"]
