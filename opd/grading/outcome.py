"""When a reward counts as right: the one threshold, for queries and for what is shown."""

from typing import overload

RIGHT_ABOVE = 0.5  # exact graders give 0 or 1; imported and summed rewards lie anywhere


@overload
def is_right(reward: float) -> bool: ...
@overload
def is_right(reward: float | None) -> bool | None: ...
def is_right(reward: float | None) -> bool | None:
    """Whether an answer with this reward is right; None for an ungraded one."""
    return None if reward is None else reward > RIGHT_ABOVE
