"""What is special of Flux: before 0.73 `flux run` passed no signals on to the ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from .sites import Flux, opened
from .test_all import assert_cancelled

pytestmark = pytest.mark.cluster


def test_the_driver_is_told_under_an_old_flux_too(tmp_path: Path, mpich_python: Path) -> None:
    with opened("flux", None, tmp_path, mpich_python) as site:
        assert isinstance(site, Flux)
        variables = {**site.login.variables, "FLUX_STANDIN_OLD": "1"}
        assert_cancelled(replace(site, login=replace(site.login, variables=variables)))
