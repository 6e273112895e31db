"""Attention: scores, probabilities and mixing, in the order in which a query goes through them."""

from .attend import Attend, AttendCommand
from .fetched import Fetched
from .history import History
from .mix import Mix
from .probabilities import Probabilities
from .queries import Queries
from .results import Results
from .scores import Scores

__all__ = [
    "Attend",
    "AttendCommand",
    "Fetched",
    "History",
    "Mix",
    "Probabilities",
    "Queries",
    "Results",
    "Scores",
]
