"""Random models fit the core that they are made for."""

import numpy as np
import pytest

from skipstone_sim.benchmarks.soak import CORES
from skipstone_sim.walks import random_image


@pytest.mark.parametrize("name", CORES)
def test_random_models_fit_every_core_of_the_soak(name):
    config = CORES[name]
    for seed in range(12):
        image = random_image(config, np.random.default_rng(seed), largest=2)
        assert image.model["head_dim"].bit_length() - 1 in config.head_dim_log2
