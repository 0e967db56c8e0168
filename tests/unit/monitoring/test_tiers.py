"""Single tiers: what of one column counts as a fault."""

from dataclasses import replace

import pytest

from tidemill.domain.tiers import ColumnCounts, check_quality
from tidemill.testing.models import PROFILE

HOLIDAY = replace(PROFILE.score, name="days_to_holiday", jump_max=1.0)
"""It falls by one a day, by all means."""


@pytest.mark.parametrize(
    ("median", "distance", "fires"),
    [(34.0, 1.0, False), (33.0, 1.5, False), (33.0, 1.0, True), (32.0, 1.5, True)],
)
def test_a_median_may_move_further_over_an_extended_window(
    median: float, distance: float, fires: bool
) -> None:
    column = ColumnCounts("days_to_holiday", bins=(100, 0), median=median)
    result, held = check_quality(
        [(column, HOLIDAY)],
        previous={"days_to_holiday": 35.0},
        typical={"days_to_holiday": 38.0},
        levels={},
        distance=distance,
        null_margin=0.05,
        unseen_share=0.05,
        jump_factor=1.5,
    )
    assert result.fired is fires
    assert held == ({"days_to_holiday": 38.0} if fires else {})
