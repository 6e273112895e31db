"""The constants of the cycle model, and the file that holds them.

They are measured: ``./scripts/bench estimate --write`` runs the gateware over a grid of shapes,
skip rates and contexts, fits them, and writes ``calibration.json`` with the errors that remain.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..spec.errors import ConfigError

__all__ = ["CALIBRATION", "Calibration", "Parameters", "load_calibration"]


@dataclass(frozen=True)
class Parameters:
    """Cycles that do not depend on sizes; the defaults are a first guess, read from the gateware.

    Attributes
    ----------
    start : float
        Of a run, beyond the program's words and the latency of the first.
    fetch : float
        From an instruction's turn to its read request.
    read : float
        From a read request to its first word, beyond memory's latency.
    burst : float
        Of a read's place among the outstanding ones, beyond memory's latency.
    barrier : float
        From the last unit's rest to the issue of what waited.
    plan : float
        From a matrix' issue, or its pass, to its first word, beyond one for each token.
    pipeline : float
        From a block's last word to its first pair of outputs.
    query, key, value, residual, swiglu, attention, logits : float
        From the last pair of outputs to rest, by what becomes of them, beyond the packing of a
        group, the finalisation of a residual vector and the latency of a write.
    finalise : float
        Of a residual vector, beyond one for each of its groups.
    finalise_latency : float
        The first one's further wait.
    route : float
        From its barrier to its retirement.
    repass : float
        Of a token that nothing wrote, beyond its pairs.
    router : float
        Of a router record, beyond one for every 32 bytes.
    embed : float
        Of a chunk, beyond pairs, angles and latencies.
    embed_token : float
        Of a token of the chunk, beyond these.
    attend : float
        From its issue to its first keys, beyond latency and the loading of queries.
    attend_token, attend_group : float
        Of each token, and of each head group of a token, beyond queries, keys and values. Outputs
        leave while the next keys pass.
    key_run : float
        Of each run of keys, beyond its words.
    next : float
        Of a chunk's reports, beyond three for each token and the latency of a write.
    halt : float
    """

    start: float = 12.0
    fetch: float = 7.0
    read: float = 8.0
    burst: float = 0.0
    barrier: float = 6.0
    plan: float = 4.0
    pipeline: float = 9.0
    query: float = 30.0
    key: float = 30.0
    value: float = 10.0
    residual: float = 26.0
    swiglu: float = 50.0
    attention: float = 26.0
    logits: float = 25.0
    finalise: float = 20.0
    finalise_latency: float = 10.0
    route: float = 2.0
    repass: float = 45.0
    router: float = 2.0
    embed: float = 40.0
    embed_token: float = 2.0
    attend: float = 6.0
    attend_token: float = 2.0
    attend_group: float = 40.0
    key_run: float = 0.2
    next: float = 12.0
    halt: float = 8.0


CALIBRATION = Path(str(files("skipstone"))) / "estimate" / "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """Fitted parameters, and how far the model is from the gateware with them.

    Attributes
    ----------
    worst_error, mean_error : float
        |estimated / simulated − 1| over the grid's phases (prefill, or decode at a context).
    phases, cycles : int
        How many were compared, and how many cycles of the gateware they make together.
    on : tuple of str
        Cores.
    """

    parameters: Parameters
    worst_error: float
    mean_error: float
    phases: int
    cycles: int
    on: tuple[str, ...]

    def save(self, path: Path = CALIBRATION) -> None:
        """Write the file."""
        document = dataclasses.asdict(self)
        document["parameters"] = {k: round(v, 2) for k, v in document["parameters"].items()}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_calibration(path: Path = CALIBRATION) -> Calibration:
    """The calibration in a file. Raises ConfigError if it is none of this version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        parameters = Parameters(**document.pop("parameters"))
        on = tuple(document.pop("on"))
        return Calibration(parameters=parameters, on=on, **document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: no calibration of this version ({error}); "
            "./scripts/bench estimate --write makes one"
        ) from None
