"""Python's collector of reference cycles, kept from looking where there are none."""

import gc


def spare(thresholds: tuple[int, int, int]) -> None:
    """Look for reference cycles seldom, and not among what was there at the start.

    A batch of events, or a page of them, is hundreds of objects without a cycle among them; with Python's own
    thresholds, looking through them took a third of a bridge's time, and a tenth of the api's.

    Args:
        thresholds: as for `gc.set_threshold`.
    """
    gc.freeze()
    gc.set_threshold(*thresholds)
