"""When state is written: often enough to lose little, seldom enough to cost little. The file: see test_pipeline."""

import pytest

from expunge.errors import StateError
from expunge.training import state


@pytest.mark.parametrize(("takes", "expected"), [(0.1, 19), (1.0, 19), (3.0, 10), (20.0, 2)])
def test_state_is_written_every_half_minute_and_for_at_most_a_twentieth_of_the_time(monkeypatch, takes, expected):
    """Steps of a second for ten minutes; a write takes so many seconds."""
    clock = [0.0]
    monkeypatch.setattr(state.time, "monotonic", lambda: clock[0])
    pace, written = state.Pace(), []

    def write():
        clock[0] += takes
        written.append(clock[0])

    while clock[0] < 600:
        clock[0] += 1
        pace.save(write)
    assert len(written) == expected
    assert (len(written) - 1) * takes <= 600 / 20 + takes
    assert 30 <= written[0] <= 31 + takes


def test_a_folder_is_no_state_file(tmp_path):
    with pytest.raises(StateError, match="is a folder"):
        state.StateFile(tmp_path, {}).load()
