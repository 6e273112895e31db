"""What a model will cost on a core: the compiler's own program, walked by a model of the core's
timing that is calibrated against the simulated gateware."""

from .boards import MEMORIES, BoardMemory, Target, board_target, core_target, find_target
from .cycles import Decisions, MemoryTiming, RunCost, RunModel
from .parameters import Calibration, Parameters, load_calibration
from .request import Estimate, PhaseEstimate, estimate, stored_resources

__all__ = [
    "MEMORIES",
    "BoardMemory",
    "Calibration",
    "Decisions",
    "Estimate",
    "MemoryTiming",
    "Parameters",
    "PhaseEstimate",
    "RunCost",
    "RunModel",
    "Target",
    "board_target",
    "core_target",
    "estimate",
    "find_target",
    "load_calibration",
    "stored_resources",
]
